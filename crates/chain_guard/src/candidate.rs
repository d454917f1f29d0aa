//! Another image in a parent's place: what a child would see through it.

use image_files::Watch;
use lineage::{Changes, Child, Conclusion, Link, Notice};

use crate::{Book, Error, View, read::Reading};

/// Compares the top image of a chain with what a link sealed, for a child as it is now. Without a
/// digest in the link the signs alone speak.
pub fn judge(
    view: View,
    link: &Link,
    child: &Child,
    book: &Book,
    watch: &mut Watch<'_>,
) -> Result<Conclusion, Error> {
    let notice = Notice::between(link.seal(), &view.layers()[0].witness);
    let Some(sealed) = book.tree_of(link)? else { return Ok(Conclusion::new(notice, None)) };
    let mut reading = Reading::new(view);
    let now = if sealed.mask().is_empty() {
        reading.whole(0, watch)?
    } else {
        let blank = sealed.again(reading.size(0));
        reading.masked(0, blank, watch)?
    };
    if reading.is_unsteady() {
        return Err(Error::Written(reading.view.layers()[0].path.clone()));
    }
    let judgement = Changes::between(&sealed, &now).judge(child);
    Ok(Conclusion::new(notice, Some(judgement)))
}
