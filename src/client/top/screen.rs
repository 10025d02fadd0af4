//! Drawing a view on the terminal.

use std::io;

use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};
use ratatui::{DefaultTerminal, Frame as Canvas};

use super::frame::{BETWEEN, COLUMNS, NUMBERS, Row};
use super::view::View;

const KEYS: &str =
    "q quit   sort: c configured, n name, i in, o out, l loss, d dropped, r reverse   / filter";

/// Width of all columns but the first, as long as there is room.
const OTHER_COLUMNS: u16 = 76;

/// The terminal in the state that drawing takes; as it was when this drops.
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }

    pub(super) fn draw(&mut self, view: &mut View) -> io::Result<()> {
        self.0.draw(|canvas| draw(canvas, view)).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = ratatui::try_restore();
    }
}

/// Draws `view`, and tells it how many rows fit.
pub(super) fn draw(canvas: &mut Canvas<'_>, view: &mut View) {
    let header = view.frame.header.len() as u16;
    let [top, _, middle, bottom] = Layout::vertical([
        Constraint::Length(header),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(canvas.area());
    let lines: Vec<_> = view.frame.header.iter().map(|line| Line::from(line.as_str())).collect();
    let dim = if view.trouble.is_some() { Modifier::DIM } else { Modifier::empty() };
    canvas.render_widget(Paragraph::new(lines).style(Style::new().add_modifier(dim)), top);
    rules(canvas, view, middle);
    canvas.render_widget(footer(view), bottom);
}

fn rules(canvas: &mut Canvas<'_>, view: &mut View, area: Rect) {
    view.page = usize::from(area.height.saturating_sub(1)).max(1);
    let all = view.rows();
    let offset = view.offset.min(all.len().saturating_sub(view.page));
    let shown = all.iter().skip(offset).take(view.page);
    let widest = shown.clone().map(|row| row.rule.chars().count()).max().unwrap_or(0);
    let widest = widest.min(usize::from(area.width.saturating_sub(OTHER_COLUMNS))).max(12) as u16;
    let columns = COLUMNS.iter().enumerate().map(|(i, column)| {
        let emphasis = if view.sort.column() == Some(i) { Modifier::UNDERLINED } else { Modifier::empty() };
        cell((*column).to_owned(), i).style(Style::new().add_modifier(emphasis))
    });
    let header = TableRow::new(columns).style(Style::new().add_modifier(Modifier::REVERSED));
    let widths = [
        Constraint::Length(widest),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Fill(1),
    ];
    let table = Table::new(shown.map(|row| table_row(row)), widths).header(header).column_spacing(1);
    canvas.render_widget(table, area);
    view.offset = offset;
}

fn table_row(row: &Row) -> TableRow<'static> {
    let cells = row.cells().into_iter().enumerate().map(|(i, text)| cell(text, i));
    let style = if row.loss > 0.0 {
        Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
    } else if row.in_pps == 0.0 {
        Style::new().add_modifier(Modifier::DIM)
    } else {
        Style::new()
    };
    TableRow::new(cells).style(style)
}

fn cell(text: String, column: usize) -> Cell<'static> {
    let alignment = if NUMBERS.contains(&column) { Alignment::Right } else { Alignment::Left };
    Cell::new(Text::from(text).alignment(alignment))
}

fn footer(view: &View) -> Paragraph<'static> {
    if let Some(trouble) = &view.trouble {
        return Paragraph::new(trouble.clone()).style(Style::new().fg(Color::Red));
    }
    if view.editing {
        return Paragraph::new(format!("show rules with: {}▏  Enter keeps it, Esc ends it", view.filter));
    }
    let rows = view.rows().len();
    let mut parts = Vec::new();
    if rows > view.page {
        parts.push(format!("{}-{} of {rows}", view.offset + 1, (view.offset + view.page).min(rows)));
    }
    if !view.filter.is_empty() {
        parts.push(format!("with {:?}, Esc shows all", view.filter));
    }
    parts.push(KEYS.to_owned());
    Paragraph::new(parts.join(BETWEEN)).style(Style::new().add_modifier(Modifier::DIM))
}
