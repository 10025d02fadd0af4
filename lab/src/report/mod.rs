//! What people see: progress while a run lasts, a table when it is over.

mod progress;
mod table;

pub use progress::Progress;
pub use table::report;
