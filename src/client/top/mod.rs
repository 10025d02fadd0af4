//! `top`: what the last second brought, on a screen that is drawn anew every second, or once as text.

mod frame;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event};
use serde::Serialize;

use self::frame::{COLUMNS, Frame, NUMBERS};
use self::screen::Screen;
use self::view::{Step, View};
use super::connection::Connection;
use super::table::{table, text};
use super::{ClientError, print};
use crate::cli::client::{Connect, Top};
use crate::control::{Answer, Command, StatsReport, WorkerStatus};

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for an answer before saying that there is none.
const PATIENCE: Duration = Duration::from_secs(3);

/// What there is at one moment.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    stats: StatsReport,
    workers: Vec<WorkerStatus>,
}

impl Sample {
    /// This one with rates since `earlier`, unless the supervisor has begun anew since.
    fn since(mut self, earlier: &Self) -> Self {
        let (before, now) = (&earlier.stats, self.stats);
        let uptime = Duration::from_millis(now.uptime_ms);
        let interval = uptime.saturating_sub(Duration::from_millis(before.uptime_ms));
        self.stats = StatsReport::new(now.at_ms, uptime, now.stats, Some((&before.stats, interval)));
        self
    }
}

/// A connection that is made again when it is lost.
struct Source {
    connect: Connect,
    connection: Option<Connection>,
}

impl Source {
    fn sample(&mut self) -> Result<Sample, ClientError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.connect)?,
        };
        let stats = match connection.ask_within(&Command::Stats, PATIENCE)? {
            Answer::Stats(stats) => *stats,
            answer => return Err(connection.unexpected(&answer)),
        };
        let workers = match connection.ask_within(&Command::Workers, PATIENCE)? {
            Answer::Workers(workers) => workers,
            answer => return Err(connection.unexpected(&answer)),
        };
        self.connection = Some(connection);
        Ok(Sample { stats, workers })
    }
}

pub(super) fn run(arguments: &Top) -> Result<(), ClientError> {
    let mut source = Source { connect: arguments.connect.clone(), connection: None };
    if arguments.once || arguments.connect.json {
        return lines(&mut source, arguments.connect.json, arguments.once);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(ClientError::Usage(
            "top draws on a terminal: use --once or --json without one".to_owned(),
        ));
    }
    // What is wrong at the start is told on the terminal as it was.
    let first = source.sample()?;
    let mut screen = Screen::open().map_err(ClientError::Terminal)?;
    watch(&mut source, first, &mut screen)
}

/// Without a screen: once or for ever.
fn lines(source: &mut Source, json: bool, once: bool) -> Result<(), ClientError> {
    let mut earlier = source.sample()?;
    loop {
        thread::sleep(INTERVAL);
        let sample = source.sample()?.since(&earlier);
        if json {
            let line = serde_json::to_string(&sample).map_err(|error| ClientError::Output(error.into()))?;
            print(&format!("{line}\n"))?;
        } else {
            print(&page(&Frame::new(&sample, Some(&earlier))))?;
        }
        if once {
            return Ok(());
        }
        earlier = sample;
    }
}

/// A frame as text, every row of it.
fn page(frame: &Frame) -> String {
    let mut rows = table(&COLUMNS, &NUMBERS);
    for row in &frame.rows {
        rows.add_row(row.cells());
    }
    format!("{}\n\n{}", frame.header.join("\n"), text(&rows))
}

/// Until the user has seen enough.
fn watch(source: &mut Source, first: Sample, screen: &mut Screen) -> Result<(), ClientError> {
    let mut view = View::new(Frame::new(&first, None));
    let mut last = first;
    let mut due = Instant::now() + INTERVAL;
    loop {
        screen.draw(&mut view).map_err(ClientError::Terminal)?;
        if event::poll(due.saturating_duration_since(Instant::now())).map_err(ClientError::Terminal)? {
            let event = event::read().map_err(ClientError::Terminal)?;
            let Event::Key(key) = event else { continue };
            match view.key(key) {
                Step::Go => continue,
                Step::Quit => return Ok(()),
            }
        }
        due = Instant::now() + INTERVAL;
        match source.sample() {
            Ok(sample) => {
                let sample = sample.since(&last);
                view.show(Frame::new(&sample, Some(&last)));
                last = sample;
            }
            Err(error) => view.trouble = Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
