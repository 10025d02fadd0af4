//! The markup in which the manual's text is kept, and how it becomes roff.
//!
//! `# page`, `## HEADING`, and blocks with empty lines between them: a block whose lines begin with four spaces is an example
//! and stays as it stands; one whose second line begins with `: ` is a term and what there is to say of it; any other is a
//! paragraph. In the latter two `` `this` `` is bold, and `*this*` italic.

use roff::{Inline, Roff, bold, italic, roman};

/// What marks a line of an example.
const INDENT: &str = "    ";

/// The sections of `page` in `text`, as headings and what stands below them.
pub(super) fn sections<'t>(text: &'t str, page: &str) -> Vec<(&'t str, &'t str)> {
    let mut pages = text.split("\n# ").map(|text| text.strip_prefix("# ").unwrap_or(text));
    let found = pages.find_map(|text| text.split_once('\n').filter(|(name, _)| *name == page));
    let sections = found.map(|(_, text)| text.split("\n## ").skip(1)).into_iter().flatten();
    sections.filter_map(|section| section.split_once('\n')).collect()
}

/// The names of the pages in `text`.
#[cfg(test)]
pub(super) fn pages(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# ")).collect()
}

/// Puts blocks of `text` into `roff`.
pub(super) fn write(text: &str, roff: &mut Roff) {
    for block in text.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.is_empty()) {
        if block.lines().all(|line| line.starts_with(INDENT)) {
            example(block, roff);
        } else if let Some((term, body)) = block.split_once("\n: ") {
            roff.control("TP", []).text(inlines(term)).text(inlines(body));
        } else {
            roff.control("PP", []).text(inlines(block));
        }
    }
}

fn example(block: &str, roff: &mut Roff) {
    roff.control("PP", []).control("RS", ["4"]).control("EX", []);
    for line in block.lines() {
        roff.text([roman(line.strip_prefix(INDENT).unwrap_or(line))]);
    }
    roff.control("EE", []).control("RE", []);
}

/// One text of one or several lines with what is bold and italic in it.
fn inlines(text: &str) -> Vec<Inline> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut inlines = Vec::new();
    for (place, part) in text.split('`').enumerate() {
        if place % 2 == 1 {
            inlines.push(bold(part));
            continue;
        }
        let parts = part.split('*').enumerate();
        inlines.extend(parts.map(|(place, part)| if place % 2 == 1 { italic(part) } else { roman(part) }));
    }
    inlines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# one\n\n## FIRST\nA `bold` and *italic*\nword.\n\n    $ keep  this\n    .too\n\n## SECOND\n\
                        term\n: what it\nis\n\n# two\n\n## FIRST\nother\n";

    #[test]
    fn sections_are_those_of_the_page() {
        let headings =
            |page| sections(TEXT, page).into_iter().map(|(heading, _)| heading).collect::<Vec<_>>();
        assert_eq!(headings("one"), ["FIRST", "SECOND"]);
        assert_eq!(headings("two"), ["FIRST"]);
        assert_eq!(headings("on"), [""; 0]);
        assert_eq!(pages(TEXT), ["one", "two"]);
    }

    #[test]
    fn blocks_become_roff() {
        let mut roff = Roff::new();
        for (_, text) in sections(TEXT, "one") {
            write(text, &mut roff);
        }
        let roff = roff.to_roff();
        let expected = [
            "A \\fBbold\\fR and \\fIitalic\\fR word.",
            "\n.EX\n$ keep  this\n\\&.too\n.EE\n",
            ".TP\nterm\nwhat it is\n",
        ];
        for part in expected {
            assert!(roff.contains(part), "{roff} has no {part}");
        }
    }
}
