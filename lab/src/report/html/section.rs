//! What a page is made of: sections with drawings and tables. The templates know these and nothing else.

use super::drawing::Drawing;

/// A part of the page.
#[derive(Debug, Default)]
pub(super) struct Section {
    /// For links to it.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// How to read it.
    pub(super) intro: &'static str,
    /// Whether subjects are told apart by colour, and points by shape.
    pub(super) has_legend: bool,
    pub(super) drawings: Vec<Drawing>,
    pub(super) tables: Vec<Table>,
    /// What the reader should know besides; of a section without drawings and tables, why it has none.
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) heads: Vec<Head>,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) text: &'static str,
    pub(super) class: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Row {
    /// A row that counts for nothing is set apart by this.
    pub(super) class: &'static str,
    /// The first one names the row.
    pub(super) cells: Vec<Cell>,
    /// Beneath the row, over its whole width.
    pub(super) notes: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) class: String,
}

impl Table {
    /// A table without rows, from its heads and whether their columns hold numbers.
    pub(super) fn new(caption: impl Into<String>, heads: &[(&'static str, bool)]) -> Self {
        let head = |(text, is_number): &(&'static str, bool)| Head { text, class: class_of(*is_number) };
        Self { caption: caption.into(), heads: heads.iter().map(head).collect(), rows: Vec::new() }
    }

    /// Adds a row of texts, one for each head.
    pub(super) fn push(&mut self, texts: impl IntoIterator<Item = String>) -> &mut Row {
        let cell = |(text, head): (String, &Head)| Cell { text, class: head.class.to_owned() };
        let cells = texts.into_iter().zip(&self.heads).map(cell).collect();
        let index = self.rows.len();
        self.rows.push(Row { cells, ..Row::default() });
        &mut self.rows[index]
    }
}

impl Row {
    /// Marks the cell that holds a verdict.
    pub(super) fn mark(&mut self, column: usize, verdict: crate::verdict::Verdict) {
        if let Some(cell) = self.cells.get_mut(column) {
            cell.class = format!("verdict {verdict}");
        }
    }
}

fn class_of(is_number: bool) -> &'static str {
    if is_number { "number" } else { "" }
}
