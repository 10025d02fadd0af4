//! What asks a running supervisor and shows its answers. It waits for one answer at a time, so it is synchronous.

mod connection;
mod error;
mod list;
mod numbers;
mod rules;
mod show;
mod stats;
mod table;
mod top;

use std::io::{self, ErrorKind, Write};

use self::connection::Connection;
pub use self::error::ClientError;
pub use self::list::to_toml;
use crate::cli::client::{ClientCommand, Connect, ListFormat};
use crate::control::{Answer, Command, Refusal, RefusalKind};

/// Carries out `command` at the supervisor and prints its answer.
pub fn run(command: &ClientCommand) -> Result<(), ClientError> {
    let result = match command {
        ClientCommand::Top(arguments) => top::run(arguments),
        ClientCommand::Add(arguments) => {
            let rules = rules::to_add(arguments)?;
            ask(&arguments.connect, &Command::Add { rules })
        }
        ClientCommand::Remove(arguments) => {
            let rules = rules::to_remove(arguments);
            ask(&arguments.connect, &Command::Remove { rules })
        }
        ClientCommand::List(arguments) => list(arguments.format, &arguments.connect),
        ClientCommand::Stats(arguments) => {
            match Connection::open(&arguments.connect)?.ask(&Command::Stats)? {
                Answer::Stats(report) if !arguments.connect.json => {
                    print(&stats::page(&report, arguments.all))
                }
                answer => print_answer(&answer, arguments.connect.json),
            }
        }
        ClientCommand::Workers(connect) => ask(connect, &Command::Workers),
        ClientCommand::Reload(connect) => ask(connect, &Command::Reload),
        ClientCommand::Ping(connect) => ask(connect, &Command::Ping),
        ClientCommand::LogLevel(arguments) => {
            ask(&arguments.connect, &Command::LogLevel { level: arguments.level })
        }
    };
    match result {
        // Whoever read it has read enough, such as `head`.
        Err(ClientError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn ask(connect: &Connect, command: &Command) -> Result<(), ClientError> {
    let mut connection = Connection::open(connect)?;
    let answer = connection.ask(command).map_err(|error| explain(error, command, &mut connection))?;
    print_answer(&answer, connect.json)
}

fn list(format: ListFormat, connect: &Connect) -> Result<(), ClientError> {
    let answer = Connection::open(connect)?.ask(&Command::List)?;
    match (&answer, format) {
        (Answer::Rules(rules), ListFormat::Toml) => {
            print(&to_toml(&rules.iter().map(|status| status.rule.clone()).collect::<Vec<_>>()))
        }
        _ => print_answer(&answer, connect.json || format == ListFormat::Json),
    }
}

/// Adds what the user may have meant to a refusal for a rule that is not there.
fn explain(error: ClientError, command: &Command, connection: &mut Connection) -> ClientError {
    match (error, command) {
        (ClientError::Refused(refusal), Command::Remove { rules })
            if refusal.kind == RefusalKind::UnknownRule =>
        {
            let present = match connection.ask(&Command::List) {
                Ok(Answer::Rules(present)) => present,
                _ => Vec::new(),
            };
            let message = format!("{}{}", refusal.message, rules::likely(rules, &present));
            ClientError::Refused(Refusal { message, ..refusal })
        }
        (error, _) => error,
    }
}

fn print_answer(answer: &Answer, json: bool) -> Result<(), ClientError> {
    if json { print(&show::json(answer)) } else { print(&show::text(answer)) }
}

fn print(text: &str) -> Result<(), ClientError> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(ClientError::Output)
}
