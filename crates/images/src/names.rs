//! Names of other files, as they stand in images: data, until these rules have passed.
//!
//! A name stays in the folder of the image that states it. It has no scheme (`nbd:`, `json:`), is
//! not absolute, does not climb out by `..`, holds no NUL, and no backslash but in formats whose
//! names come from Windows, where it separates.
//!
//! What remains to the opener: symbolic links (openat2 with RESOLVE_BENEATH), pipes and devices.

use crate::{Class, Fault, FileId, Part, Role, limits};

/// Whose manner a name follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Slashes separate; a backslash is refused.
    Unix,
    /// Backslashes separate too; drive letters and `\\server` are absolute.
    Windows,
}

/// A name that has passed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileName(String);

impl FileName {
    /// The path, relative to the folder of the image that names it: no `.`, no `..`, not empty.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it leads out of the folder of the image that names it: only [`outside`] gives such a
    /// name, and an opener follows it only where the user said so.
    pub fn is_outside(&self) -> bool {
        self.0.starts_with('/') || self.0.split('/').any(|step| step == "..")
    }

    /// The name of a file that a folder listing gave.
    pub(crate) fn listed(name: &str) -> Option<Self> {
        check(name, Style::Unix).ok().filter(|clean| clean.0 == name && !name.contains('/'))
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFlaw {
    /// Nothing is left of it: it names no file.
    #[error("the name leads to no file")]
    Empty,
    /// Longer than [`limits::NAME_BYTES_MAX`].
    #[error("the name is longer than 1023 bytes")]
    Long,
    /// A zero byte ends names for the kernel but not for us.
    #[error("the name holds a zero byte")]
    Nul,
    /// A protocol or driver.
    #[error("the name begins with a scheme")]
    Scheme,
    /// From the root, a drive or another host.
    #[error("the name is absolute")]
    Absolute,
    /// Out of the image's folder.
    #[error("the name leads out of the image's folder")]
    Climbs,
    /// Not a separator here, and one elsewhere.
    #[error("the name holds a backslash")]
    Backslash,
    /// Not text.
    #[error("the name is not UTF-8")]
    Encoding,
}

/// A name found in an image, made clean, or why it must not be used.
pub fn check(name: &str, style: Style) -> Result<FileName, NameFlaw> {
    if name.len() > limits::NAME_BYTES_MAX {
        return Err(NameFlaw::Long);
    }
    if name.contains('\0') {
        return Err(NameFlaw::Nul);
    }
    let name = match style {
        Style::Unix if name.contains('\\') => return Err(NameFlaw::Backslash),
        Style::Unix => name.to_owned(),
        Style::Windows => name.replace('\\', "/"),
    };
    if name.starts_with('/') {
        return Err(NameFlaw::Absolute);
    }
    // `C:` is a drive, `nbd:` a driver; a colon behind a slash is a letter like others.
    let head = name.split('/').next().unwrap_or_default();
    match (head.find(':'), style) {
        (Some(1), Style::Windows) => return Err(NameFlaw::Absolute),
        (Some(_), _) => return Err(NameFlaw::Scheme),
        (None, _) => {}
    }
    let mut clean: Vec<&str> = Vec::new();
    for step in name.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                clean.pop().ok_or(NameFlaw::Climbs)?;
            }
            step => clean.push(step),
        }
    }
    if clean.is_empty() { Err(NameFlaw::Empty) } else { Ok(FileName(clean.join("/"))) }
}

/// A name that leads anywhere on this machine: absolute, or climbing out of the folder. Schemes and
/// drives are no files here and stay refused.
pub fn outside(name: &str, style: Style) -> Option<FileName> {
    match check(name, style) {
        Ok(name) => return Some(name),
        Err(NameFlaw::Absolute | NameFlaw::Climbs) => {}
        Err(_) => return None,
    }
    let name = match style {
        Style::Unix => name.to_owned(),
        Style::Windows => name.replace('\\', "/"),
    };
    // `C:\x` and `\\server\x` are of another machine.
    let is_foreign = name.split('/').next().is_some_and(|head| head.contains(':'));
    (!is_foreign && !name.starts_with("//")).then_some(FileName(name))
}

/// [`check`] of bytes, as a fault of the class that fits the file's role: `at` is where the name
/// stands in `file`.
pub fn check_bytes(
    name: &[u8],
    style: Style,
    role: Role,
    (file, at): (FileId, u64),
) -> Result<FileName, Fault> {
    let checked = std::str::from_utf8(name)
        .map_err(|_| NameFlaw::Encoding)
        .and_then(|name| check(name, style));
    checked.map_err(|flaw| {
        let class = match (flaw, role) {
            (NameFlaw::Empty, role) => missing(role),
            (_, role) => forbidden(role),
        };
        let text = format!("{flaw}: {:?}", String::from_utf8_lossy(name));
        Fault::at(class, part(role), file, at, text)
    })
}

/// The class of a file that is not there.
pub const fn missing(role: Role) -> Class {
    match role {
        Role::Parent => Class::ParentMissing,
        Role::Extent => Class::ExtentMissing,
        Role::DataFile => Class::DataFileMissing,
    }
}

/// The class of a file that must not be opened.
pub const fn forbidden(role: Role) -> Class {
    match role {
        Role::Parent => Class::ParentNameForbidden,
        Role::Extent => Class::ExtentNameForbidden,
        Role::DataFile => Class::DataFileForbidden,
    }
}

/// Where names of that role stand.
const fn part(role: Role) -> Part {
    match role {
        Role::Parent | Role::DataFile => Part::Chain,
        Role::Extent => Part::Descriptor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(name: &str) -> Result<String, NameFlaw> {
        check(name, Style::Unix).map(|name| name.0)
    }

    #[test]
    fn plain_names_pass_and_come_out_clean() {
        assert_eq!(unix("base.raw").unwrap(), "base.raw");
        assert_eq!(unix("./a//b/../c äöü.raw").unwrap(), "a/c äöü.raw");
        assert_eq!(unix("a\nb").unwrap(), "a\nb");
        assert_eq!(unix("dir/with:colon").unwrap(), "dir/with:colon");
        assert_eq!(check(".\\vm\\d0.vhd", Style::Windows).unwrap().0, "vm/d0.vhd");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (name, flaw) in [
            ("json:{\"driver\":\"raw\"}", NameFlaw::Scheme),
            ("nbd://host/x", NameFlaw::Scheme),
            ("/etc/passwd", NameFlaw::Absolute),
            ("../x", NameFlaw::Climbs),
            ("x/../../y", NameFlaw::Climbs),
            ("base\0.raw", NameFlaw::Nul),
            ("\\\\server\\share", NameFlaw::Backslash),
            (".", NameFlaw::Empty),
            ("", NameFlaw::Empty),
            ("x/..", NameFlaw::Empty),
        ] {
            assert_eq!(unix(name), Err(flaw), "{name:?}");
        }
        assert_eq!(unix(&"n".repeat(1024)), Err(NameFlaw::Long));
        for (name, flaw) in [
            ("C:\\vm\\x.vhd", NameFlaw::Absolute),
            ("\\\\server\\x.vhd", NameFlaw::Absolute),
            ("..\\x.vhd", NameFlaw::Climbs),
        ] {
            assert_eq!(check(name, Style::Windows), Err(flaw), "{name:?}");
        }
    }

    #[test]
    fn names_may_lead_outside_where_that_is_allowed() {
        let found = |name: &str, style| outside(name, style).map(|name| name.0);
        for (name, is_outside) in [("base.raw", false), ("/srv/base.raw", true), ("../x", true)] {
            let name = outside(name, Style::Unix).expect("a name");
            assert_eq!(name.is_outside(), is_outside, "{name}");
        }
        assert_eq!(found("..\\vm\\x.vhdx", Style::Windows).as_deref(), Some("../vm/x.vhdx"));
        for name in ["nbd://h/x", "json:{}", "", "a\0b", "/"] {
            let named = found(name, Style::Unix);
            assert!(named.is_none() || name == "/", "{name:?}: {named:?}");
        }
        assert_eq!(found("C:\\vm\\x.vhd", Style::Windows), None);
        assert_eq!(found("\\\\server\\x.vhd", Style::Windows), None);
    }

    #[test]
    fn role_decides_the_class() {
        let fault = |name: &[u8], role| {
            check_bytes(name, Style::Unix, role, (FileId(0), 8)).unwrap_err().class
        };
        assert_eq!(fault(b"", Role::Parent), Class::ParentMissing);
        assert_eq!(fault(b"/x", Role::Parent), Class::ParentNameForbidden);
        assert_eq!(fault(b"\xff", Role::Extent), Class::ExtentNameForbidden);
        assert_eq!(fault(b"../x", Role::DataFile), Class::DataFileForbidden);
    }
}
