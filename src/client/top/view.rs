//! What of a frame is shown and in which order, and the keys that change it.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::frame::{Frame, Row};

/// What rows are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Configured,
    Name,
    In,
    Out,
    Loss,
    Dropped,
}

impl Sort {
    /// Its column, if it is one of them.
    pub(super) fn column(self) -> Option<usize> {
        match self {
            Self::Configured => None,
            Self::Name => Some(0),
            Self::In => Some(1),
            Self::Out => Some(3),
            Self::Loss => Some(4),
            Self::Dropped => Some(5),
        }
    }

    /// Names ascend, numbers descend.
    fn compare(self, a: &Row, b: &Row) -> Ordering {
        match self {
            Self::Configured => Ordering::Equal,
            Self::Name => a.rule.cmp(&b.rule),
            Self::In => b.in_pps.total_cmp(&a.in_pps),
            Self::Out => b.out_pps.total_cmp(&a.out_pps),
            Self::Loss => b.loss.total_cmp(&a.loss),
            Self::Dropped => b.dropped().cmp(&a.dropped()),
        }
    }
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Go,
    Quit,
}

/// A frame and how it is looked at.
pub(super) struct View {
    pub(super) frame: Frame,
    /// Why there is no newer frame.
    pub(super) trouble: Option<String>,
    pub(super) sort: Sort,
    reversed: bool,
    /// Rules whose name has no such part are not shown.
    pub(super) filter: String,
    /// Whether keys are part of the filter.
    pub(super) editing: bool,
    /// Rows above the first that is shown.
    pub(super) offset: usize,
    /// Rows that fit on the screen.
    pub(super) page: usize,
}

impl View {
    pub(super) fn new(frame: Frame) -> Self {
        Self {
            frame,
            trouble: None,
            sort: Sort::Configured,
            reversed: false,
            filter: String::new(),
            editing: false,
            offset: 0,
            page: 1,
        }
    }

    /// Looks at a newer frame in the same way.
    pub(super) fn show(&mut self, frame: Frame) {
        (self.frame, self.trouble) = (frame, None);
    }

    /// The rows that pass the filter, in order.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let filter = self.filter.to_lowercase();
        let mut rows: Vec<_> =
            self.frame.rows.iter().filter(|row| row.rule.to_lowercase().contains(&filter)).collect();
        // A stable sort: what is equal stays as configured.
        rows.sort_by(|a, b| self.sort.compare(a, b));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// What `key` does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Step {
        if key.kind == KeyEventKind::Release {
            return Step::Go;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Step::Quit } else { Step::Go };
        }
        if self.editing {
            self.edit(key.code);
            return Step::Go;
        }
        match key.code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Step::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Char('c') => self.sort_by(Sort::Configured),
            KeyCode::Char('n') => self.sort_by(Sort::Name),
            KeyCode::Char('i') => self.sort_by(Sort::In),
            KeyCode::Char('o') => self.sort_by(Sort::Out),
            KeyCode::Char('l') => self.sort_by(Sort::Loss),
            KeyCode::Char('d') => self.sort_by(Sort::Dropped),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            code => self.scroll(code),
        }
        Step::Go
    }

    fn sort_by(&mut self, sort: Sort) {
        (self.sort, self.reversed, self.offset) = (sort, false, 0);
    }

    fn edit(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.editing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.editing = false;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.offset = 0;
    }

    fn scroll(&mut self, code: KeyCode) {
        let last = self.rows().len().saturating_sub(self.page);
        self.offset = match code {
            KeyCode::Down | KeyCode::Char('j') => self.offset + 1,
            KeyCode::Up | KeyCode::Char('k') => self.offset.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.offset + self.page,
            KeyCode::PageUp => self.offset.saturating_sub(self.page),
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => self.offset,
        }
        .min(last);
    }
}
