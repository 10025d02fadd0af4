//! Reading the configuration again: what has changed of the rules is applied, and what has not is not touched.

use std::collections::HashSet;

use super::Supervisor;
use super::answers::failed;
use crate::config::Config;
use crate::control::{Answer, Outcome, Refusal, RefusalKind};
use crate::rules::Rule;

/// What is to be done so that other rules run.
#[derive(Debug, Default)]
struct Difference {
    /// Places of rules that are no more, or that others with the same input replace.
    remove: Vec<u32>,
    add: Vec<Rule>,
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
    unchanged: usize,
}

impl Supervisor {
    /// Applies the difference between what runs and the configuration as it is now. One with a mistake changes nothing.
    pub(super) async fn reload(&mut self) -> Outcome {
        if self.options.flags.file.is_none() {
            let message = "this supervisor was started without --config, so there is no file to read again";
            return Err(Refusal::new(RefusalKind::BadRequest, message));
        }
        let config = Config::load(&self.options.flags).map_err(|error| {
            Refusal::new(RefusalKind::BadRequest, format!("nothing was changed: {error}"))
        })?;
        let needs_restart = self.relay.config.settings_that_differ(&config);
        for setting in &needs_restart {
            tracing::warn!("{setting} takes effect when the relay is started again");
        }
        let difference = self.difference(config.rules);
        let Difference { remove, add, added, removed, changed, unchanged } = difference;
        self.relay.change(&remove, add).await.map_err(failed)?;
        tracing::info!(
            "read the configuration again: {} added, {} removed, {} changed, {unchanged} unchanged",
            added.len(),
            removed.len(),
            changed.len()
        );
        let needs_restart = needs_restart.into_iter().map(str::to_owned).collect();
        Ok(Answer::Reloaded { added, removed, changed, unchanged, needs_restart })
    }

    fn difference(&self, rules: Vec<Rule>) -> Difference {
        let mut difference = Difference::default();
        let mut kept = HashSet::new();
        for rule in rules {
            let running = self.relay.book.with_input(&rule.input);
            match running.and_then(|place| Some((place, self.relay.book.get(place)?))) {
                Some((place, _)) if self.relay.book.has(&rule) => {
                    kept.insert(place);
                    difference.unchanged += 1;
                    continue;
                }
                Some((place, _)) => {
                    kept.insert(place);
                    difference.remove.push(place);
                    difference.changed.push(rule.name.clone());
                }
                None => difference.added.push(rule.name.clone()),
            }
            difference.add.push(rule);
        }
        for (place, live) in self.relay.book.iter().filter(|(place, _)| !kept.contains(place)) {
            difference.remove.push(place);
            difference.removed.push(live.rule.name.clone());
        }
        difference
    }
}
