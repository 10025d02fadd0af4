//! Ledgers, as waterfalls: what came to each place, and each drop on the way there.

use super::drawing::Drawing;
use super::groups::Groups;
use super::plot::WHOLE;
use super::record::{Drop, Gap, Ledger, Step, Trial};
use super::scale::Scale;
use super::section::Section;
use super::units::many;
use crate::report::numbers::grouped;

const LINE: f64 = 21.0;
const NAMES: f64 = 190.0;
const FIGURES: f64 = 330.0;
/// A drop of one in a million is to be seen too.
const THINNEST: f64 = 2.0;

pub(super) fn section(groups: &Groups<'_>) -> Section {
    let mut section = Section {
        id: "ledger",
        title: "Ledger",
        intro: "From the generator to the sinks: each bar is what was counted at a place, as a share of what should \
                have come there; each dark piece what went missing on the way, with its name, and who counted it in \
                brackets. Conditions under which a subject lost nothing are summed up.",
        ..Section::default()
    };
    for subject in &groups.subjects {
        let of_subject = || groups.all.iter().filter(|group| group.subject == *subject);
        let sums: Vec<_> =
            of_subject().filter_map(|group| Some((group, Sum::of(group.conclusive())?))).collect();
        let clean: Vec<_> = sums.iter().filter(|(_, sum)| sum.is_clean()).map(|(group, _)| *group).collect();
        if let Some(sum) = Sum::of(clean.iter().flat_map(|group| group.conclusive())) {
            let conditions = match clean.as_slice() {
                [group] => groups.name(group.condition),
                _ => format!("{} without a drop", many(clean.len(), "condition")),
            };
            section.drawings.push(sum.drawing(&format!("{subject}, {conditions}")));
        }
        for (group, sum) in sums.iter().filter(|(_, sum)| !sum.is_clean()) {
            section.drawings.push(sum.drawing(&format!("{subject}, {}", groups.name(group.condition))));
        }
        let void =
            of_subject().flat_map(|group| &group.trials).filter(|trial| !trial.verdict.is_conclusive());
        section.drawings.extend(void.filter_map(|trial| alone(groups, trial)));
    }
    if section.drawings.is_empty() {
        section.notes.push("No drawing: no trial came so far that anything was counted.".to_owned());
    }
    section
}

/// A trial that does not count.
fn alone(groups: &Groups<'_>, trial: &Trial) -> Option<Drawing> {
    let sum = Sum::of([trial])?;
    let (subject, verdict, turn) = (&trial.subject, trial.verdict, trial.turn());
    let condition = groups.name(trial.condition());
    Some(sum.drawing(&format!("{subject}, {condition}, {turn}: {verdict}, counts for nothing")))
}

/// The ledgers of some trials as one: sums of ledgers that add up add up too.
#[derive(Debug, Default)]
struct Sum {
    trials: usize,
    steps: Vec<Step>,
    gaps: Vec<String>,
    adds_up: bool,
}

impl Sum {
    fn of<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> Option<Self> {
        let mut sum = Self { adds_up: true, ..Self::default() };
        for trial in trials {
            let Some(ledger) = &trial.ledger else { continue };
            sum.add(ledger, &trial.turn());
        }
        (sum.trials > 0).then_some(sum)
    }

    fn add(&mut self, ledger: &Ledger, turn: &str) {
        self.trials += 1;
        self.adds_up &= ledger.adds_up;
        self.gaps.extend(ledger.gaps.iter().map(|gap| format!("{turn}: {}", gap_in_words(gap))));
        for step in &ledger.steps {
            match self.steps.iter_mut().find(|known| known.place == step.place) {
                Some(known) => add_step(known, step),
                None => self.steps.push(step.clone()),
            }
        }
    }

    fn is_clean(&self) -> bool {
        self.adds_up && self.steps.iter().all(|step| step.drops.is_empty() && step.unexplained == 0)
    }

    fn drawing(&self, title: &str) -> Drawing {
        let drops: usize = self.steps.iter().map(|step| step.drops.len()).sum();
        let height = 10.0 + LINE * (self.steps.len() + drops) as f64;
        let adds_up = if self.adds_up { "adds up" } else { "does NOT add up" };
        let title = format!("{title}: {}, {adds_up}", many(self.trials, "trial"));
        let told = self
            .steps
            .iter()
            .map(|step| format!("{} {}{}", place(step), grouped(step.count), drops_in_words(step)));
        let mut drawing = Drawing::new(title, told.collect::<Vec<_>>().join("; "), [WHOLE, height]);
        drawing.notes.clone_from(&self.gaps);
        let x = Scale::between([0.0, 1.0], [NAMES, WHOLE - FIGURES]);
        let mut top = 4.0;
        let (mut due, mut left) = (1.0, 1.0);
        for (i, step) in self.steps.iter().enumerate() {
            // What is no datagram of the trial takes no part of the bar.
            let strangers = step.other_frames.saturating_add(step.added_by_subject);
            let own = step.count.saturating_sub(strangers) as f64;
            let copies = step.copies.max(1) as f64;
            let joining = step.foreign.saturating_add(step.taken_again) as f64;
            (due, left) = if i == 0 { (own, own) } else { (due * copies + joining, left * copies + joining) };
            for drop in &step.drops {
                let rest = left - drop.count as f64;
                draw_drop(&mut drawing, drop, [x.at(share(rest, due)), x.at(share(left, due))], top);
                (left, top) = (rest, top + LINE);
            }
            draw_step(&mut drawing, step, x.at(share(own, due)), top);
            (left, top) = (own, top + LINE);
        }
        drawing.line("axis", [NAMES, 0.0], [NAMES, height]);
        drawing
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn add_step(sum: &mut Step, step: &Step) {
    sum.count = sum.count.saturating_add(step.count);
    sum.foreign = sum.foreign.saturating_add(step.foreign);
    sum.taken_again = sum.taken_again.saturating_add(step.taken_again);
    sum.other_frames = sum.other_frames.saturating_add(step.other_frames);
    sum.added_by_subject = sum.added_by_subject.saturating_add(step.added_by_subject);
    sum.unexplained = sum.unexplained.saturating_add(step.unexplained);
    for drop in &step.drops {
        let is_it = |known: &&mut Drop| known.name == drop.name && known.source == drop.source;
        match sum.drops.iter_mut().find(is_it) {
            Some(known) => known.count = known.count.saturating_add(drop.count),
            None => sum.drops.push(drop.clone()),
        }
    }
}

fn draw_step(drawing: &mut Drawing, step: &Step, right: f64, top: f64) {
    drawing.text("label end", [NAMES - 8.0, top + 14.0], &place(step), 28);
    drawing.bar("passed", [NAMES, top + 3.0], [right - NAMES, LINE - 6.0], grouped(step.count));
    let mut words = vec![grouped(step.count)];
    if step.copies != 1 {
        words.push(format!("× {} copies", step.copies));
    }
    if step.foreign > 0 {
        words.push(format!("with {} foreign", grouped(step.foreign)));
    }
    if step.taken_again > 0 {
        words.push(format!("with {} taken again", grouped(step.taken_again)));
    }
    if step.other_frames > 0 {
        words.push(format!("with {} other frames", grouped(step.other_frames)));
    }
    if step.added_by_subject > 0 {
        words.push(format!("with {} added by the subject", grouped(step.added_by_subject)));
    }
    if step.unexplained != 0 {
        let sign = if step.unexplained > 0 { "−" } else { "+" };
        words.push(format!("{sign}{} UNEXPLAINED", grouped(step.unexplained.unsigned_abs())));
    }
    drawing.text("figure", [WHOLE - FIGURES + 14.0, top + 14.0], &words.join("  "), 54);
}

fn draw_drop(drawing: &mut Drawing, drop: &Drop, [low, high]: [f64; 2], top: f64) {
    let width = (high - low).max(THINNEST);
    let told = format!("−{} {}", grouped(drop.count), drop.name);
    drawing.text("tick end", [NAMES - 8.0, top + 14.0], &drop.name, 28);
    // Where all is lost the piece is at the very beginning, and still in the drawing.
    let left = (high - width).max(NAMES);
    drawing.bar("dropped", [left, top + 3.0], [width, LINE - 6.0], told);
    let told = format!("−{}  ({})", grouped(drop.count), drop.source);
    drawing.text("figure dropped", [WHOLE - FIGURES + 14.0, top + 14.0], &told, 54);
}

/// In the words of the terminal's ledger.
fn place(step: &Step) -> String {
    step.place.replace('-', " ")
}

fn drops_in_words(step: &Step) -> String {
    let drops = step.drops.iter().map(|drop| format!(" after {} {}", grouped(drop.count), drop.name));
    drops.collect()
}

fn gap_in_words(gap: &Gap) -> String {
    let Gap { place, output, unexplained, keeper, remedy } = gap;
    let output = output.map(|output| format!(" {output}")).unwrap_or_default();
    let how = if *unexplained > 0 { "missing without a named drop" } else { "more than there can be" };
    let remedy = remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
    let (place, many) = (place.replace('-', " "), grouped(unexplained.unsigned_abs()));
    format!("at \"{place}{output}\" {many} {how}, for which the {keeper} answers{remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(place: &str, count: u64, drops: &[(&str, u64)]) -> Step {
        let drop =
            |(name, count): &(&str, u64)| Drop { name: (*name).into(), source: "x".into(), count: *count };
        Step {
            place: place.into(),
            count,
            copies: 1,
            drops: drops.iter().map(drop).collect(),
            foreign: 0,
            taken_again: 0,
            other_frames: 0,
            added_by_subject: 0,
            unexplained: 0,
        }
    }

    #[test]
    fn ledgers_are_summed_by_place_and_drop() {
        let ledger = |lost| Ledger {
            steps: vec![step("sent", 10, &[]), step("sink", 10 - lost, &[("full", lost)])],
            gaps: Vec::new(),
            adds_up: true,
        };
        let mut sum = Sum { adds_up: true, ..Sum::default() };
        sum.add(&ledger(1), "");
        sum.add(&ledger(2), "");
        assert!(!sum.is_clean());
        let drops: Vec<_> = sum.steps[1].drops.iter().map(|drop| drop.count).collect();
        assert_eq!((sum.steps[0].count, sum.steps[1].count, drops), (20, 17, vec![3]));
        let drawing = sum.drawing("a");
        assert_eq!(drawing.title, "a: 2 trials, adds up");
        assert_eq!(drawing.description, "sent 20; sink 17 after 3 full");
    }
}
