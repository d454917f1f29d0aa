//! Tables: columns by width for people, tab-separated for scripts.
//!
//! A cell knows both of its forms: a size is `40.0 GiB` on a terminal and a count of bytes in a
//! pipe, a time local on a terminal and RFC 3339 in a pipe.

use anstyle::Style;
use api::{Time, Zone, amounts, failure::printable};
use std::fmt::Write as _;

/// A cell.
#[derive(Clone, Debug)]
pub struct Cell {
    shown: String,
    plain: String,
    right: bool,
}

impl Cell {
    /// Text.
    #[expect(clippy::needless_pass_by_value, reason = "a number or a reference to text")]
    pub fn text(text: impl ToString) -> Self {
        let plain = text.to_string();
        Self { shown: plain.clone(), plain, right: false }
    }

    /// Bytes.
    pub fn size(bytes: u64) -> Self {
        Self { shown: amounts::size_text(bytes), plain: bytes.to_string(), right: true }
    }

    /// A count.
    pub fn count(count: u64) -> Self {
        Self { shown: amounts::count_text(count), plain: count.to_string(), right: true }
    }

    /// A time, to the millisecond.
    pub fn time(time: Time, zone: &Zone) -> Self {
        Self { shown: zone.show_precise(time), plain: time.to_string(), right: false }
    }

    /// A time, to the minute.
    pub fn minute(time: Time, zone: &Zone) -> Self {
        Self { shown: zone.show_minute(time), plain: time.to_string(), right: false }
    }

    /// A number with two digits behind the point, or a dash.
    pub fn ratio(value: Option<f64>) -> Self {
        let text = value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        Self { shown: text.clone(), plain: text, right: true }
    }

    /// A dash where there is nothing.
    pub fn maybe(cell: Option<Self>) -> Self {
        cell.unwrap_or_else(|| Self::text("-"))
    }
}

/// Rows under a head.
#[derive(Clone, Debug, Default)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns.
    pub fn new<const N: usize>(head: [&'static str; N]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Names and values, one a row, without a head.
    pub fn facts() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert!(self.head.is_empty() || self.head.len() == N, "a cell for each column");
        self.rows.push(Vec::from(cells));
    }

    /// Adds a name and its value.
    pub fn fact(&mut self, name: &str, mut value: Cell) {
        value.right = false;
        self.rows.push(vec![Cell::text(name), value]);
    }

    /// For people: two blanks between columns, numbers to the right.
    pub fn aligned(&self, head: Style) -> String {
        let columns = self.rows.iter().map(Vec::len).chain([self.head.len()]).max().unwrap_or(0);
        let shown: Vec<Vec<(String, bool)>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| (printable(&cell.shown), cell.right)).collect())
            .collect();
        let width = |column: usize| {
            let texts = shown.iter().filter_map(|row| row.get(column)).map(|(text, _)| cells(text));
            texts.chain(self.head.get(column).map(|name| cells(name))).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        if !self.head.is_empty() {
            let right = |column: usize| {
                shown.first().and_then(|row| row.get(column)).is_some_and(|(_, right)| *right)
            };
            let names = self
                .head
                .iter()
                .enumerate()
                .map(|(column, name)| (name.to_string(), right(column)));
            let line = join(names, &widths);
            writeln!(out, "{head}{line}{head:#}").expect("a string takes all");
        }
        for row in shown {
            writeln!(out, "{}", join(row.into_iter(), &widths)).expect("a string takes all");
        }
        out
    }

    /// For scripts: no head, tabs between columns.
    pub fn tabbed(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| printable(&cell.plain)).collect();
            out.push_str(&cells.join("\t"));
            out.push('\n');
        }
        out
    }
}

fn join(cells_in_row: impl Iterator<Item = (String, bool)>, widths: &[usize]) -> String {
    let mut line = String::new();
    for (column, (text, right)) in cells_in_row.enumerate() {
        if column > 0 {
            line.push_str("  ");
        }
        let gap = " ".repeat(widths[column].saturating_sub(cells(&text)));
        let (before, after) = if right { (gap.as_str(), "") } else { ("", gap.as_str()) };
        write!(line, "{before}{text}{after}").expect("a string takes all");
    }
    line.truncate(line.trim_end().len());
    line
}

/// Columns that a text takes; our words are narrow, and names are ASCII.
fn cells(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let mut table = Table::new(["NAME", "SIZE", "CLIENTS"]);
        table.row([Cell::text("db"), Cell::size(40 << 30), Cell::count(1)]);
        table.row([Cell::text("archive"), Cell::size(512), Cell::count(12_000)]);
        table
    }

    #[test]
    fn people_get_columns() {
        let expected = "\
NAME         SIZE  CLIENTS
db       40.0 GiB        1
archive     512 B   12 000
";
        assert_eq!(example().aligned(Style::new()), expected);
    }

    #[test]
    fn scripts_get_tabs_and_plain_numbers() {
        assert_eq!(example().tabbed(), "db\t42949672960\t1\narchive\t512\t12000\n");
    }

    #[test]
    fn a_cell_cannot_break_its_row() {
        let mut table = Table::new(["NAME"]);
        table.row([Cell::text("a\tb\nc\u{1b}[31m")]);
        assert_eq!(table.tabbed(), "a\\tb\\nc\\u{1b}[31m\n");
    }
}
