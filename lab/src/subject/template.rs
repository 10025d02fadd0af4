//! Texts with placeholders, in the commands and files of subjects that are not our relay.

use std::fmt;
use std::path::PathBuf;

/// What may stand in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Placeholder {
    Ingress,
    Egress,
    Group,
    Port,
    OutGroup,
    OutPort,
    Dir,
    Lab,
    File(String),
}

/// What the placeholders stand for in one trial: the devices, the first flow's addresses, and where things are.
#[derive(Clone, Debug)]
pub struct Values {
    /// The input device.
    pub ingress: String,
    /// The first output device.
    pub egress: String,
    /// Where the first flow comes in: a group, or the relay's own address.
    pub group: String,
    /// Its port.
    pub port: u16,
    /// Where the first flow goes at the first output.
    pub out_group: String,
    /// Its port.
    pub out_port: u16,
    /// A folder of the trial's own, in which the files are.
    pub dir: PathBuf,
    /// The lab's own program.
    pub lab: PathBuf,
}

/// A text with placeholders, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Placeholder(Placeholder),
}

/// A text whose placeholders nobody can fill.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// No such placeholder.
    #[error(
        "unknown placeholder {{{0}}}: there are {{ingress}} {{egress}} {{group}} {{port}} {{out-group}} \
         {{out-port}} {{dir}} {{lab}} {{file:NAME}}"
    )]
    Unknown(String),
    /// `{file:NAME}` of a file that `files` does not give.
    #[error("no file \"{0}\": give it in files = {{ \"{0}\" = \"...\" }}")]
    NoSuchFile(String),
}

impl Template {
    /// Finds the placeholders in `text`; `files` are those it may refer to. Braces around anything that does not
    /// look like a name are text.
    pub fn parse(text: &str, files: &[&str]) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, name, after)) = next_name(rest) {
            pieces.push(Piece::Text(before.to_owned()));
            let unknown = || TemplateError::Unknown(name.to_owned());
            let placeholder = Placeholder::named(name).ok_or_else(unknown)?;
            if let Placeholder::File(file) = &placeholder
                && !files.contains(&file.as_str())
            {
                return Err(TemplateError::NoSuchFile(file.clone()));
            }
            pieces.push(Piece::Placeholder(placeholder));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(Self(pieces))
    }

    /// The text with `values` in place of the placeholders.
    pub fn render(&self, values: &Values) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Placeholder(placeholder) => placeholder.render(values),
        });
        pieces.collect()
    }
}

impl fmt::Display for Template {
    /// The text as it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Placeholder(placeholder) => write!(f, "{{{}}}", placeholder.name()),
        })
    }
}

impl Placeholder {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ingress" => Self::Ingress,
            "egress" => Self::Egress,
            "group" => Self::Group,
            "port" => Self::Port,
            "out-group" => Self::OutGroup,
            "out-port" => Self::OutPort,
            "dir" => Self::Dir,
            "lab" => Self::Lab,
            _ => Self::File(name.strip_prefix("file:")?.to_owned()),
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Ingress => "ingress".to_owned(),
            Self::Egress => "egress".to_owned(),
            Self::Group => "group".to_owned(),
            Self::Port => "port".to_owned(),
            Self::OutGroup => "out-group".to_owned(),
            Self::OutPort => "out-port".to_owned(),
            Self::Dir => "dir".to_owned(),
            Self::Lab => "lab".to_owned(),
            Self::File(name) => format!("file:{name}"),
        }
    }

    fn render(&self, values: &Values) -> String {
        match self {
            Self::Ingress => values.ingress.clone(),
            Self::Egress => values.egress.clone(),
            Self::Group => values.group.clone(),
            Self::Port => values.port.to_string(),
            Self::OutGroup => values.out_group.clone(),
            Self::OutPort => values.out_port.to_string(),
            Self::Dir => values.dir.display().to_string(),
            Self::Lab => values.lab.display().to_string(),
            Self::File(name) => values.dir.join(name).display().to_string(),
        }
    }
}

/// The first `{name}` in `text`, with what is before and after it. A name is lower-case letters and dashes, or
/// `file:` and anything up to the brace.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let open = from + text.get(from..)?.find('{')?;
        let close = open + text.get(open..)?.find('}')?;
        let name = text.get(open + 1..close)?;
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        if plain || name.starts_with("file:") {
            return Some((text.get(..open)?, name, text.get(close + 1..)?));
        }
        from = open + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values {
            ingress: "ingress".into(),
            egress: "egress0".into(),
            group: "239.81.1.1".into(),
            port: 5000,
            out_group: "239.82.1.1".into(),
            out_port: 6000,
            dir: "/trial".into(),
            lab: "/bin/lab".into(),
        }
    }

    fn rendered(text: &str) -> String {
        Template::parse(text, &["x.conf"]).unwrap().render(&values())
    }

    #[test]
    fn placeholders_are_filled() {
        assert_eq!(rendered("{ingress}:{group}:{port}"), "ingress:239.81.1.1:5000");
        assert_eq!(rendered("a {out-group} {out-port} {egress} b"), "a 239.82.1.1 6000 egress0 b");
        assert_eq!(rendered("{file:x.conf} {dir} {lab}"), "/trial/x.conf /trial /bin/lab");
        assert_eq!(rendered(""), "");
    }

    #[test]
    fn other_braces_are_text() {
        for text in ["{}", "{ ingress }", "server { listen 1; }", "{", "}{", "{A}", "{{"] {
            assert_eq!(rendered(text), text);
        }
        assert_eq!(rendered("{ {port} }"), "{ 5000 }");
    }

    #[test]
    fn what_cannot_be_filled_is_an_error() {
        assert_eq!(Template::parse("{prot}", &[]), Err(TemplateError::Unknown("prot".into())));
        assert_eq!(Template::parse("{file:y}", &["x"]), Err(TemplateError::NoSuchFile("y".into())));
    }

    #[test]
    fn the_text_is_kept() {
        let text = "-f {file:a} -g {file:b.conf} {port}";
        assert_eq!(Template::parse(text, &["a", "b.conf"]).unwrap().to_string(), text);
    }
}
