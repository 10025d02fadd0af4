//! Tables in Markdown.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

/// A table with these heads; nothing when there is no row.
pub(super) fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(heads);
    for row in rows {
        table.add_row(row.map(|text| plain(&text)));
    }
    if table.row_count() == 0 { String::new() } else { table.to_string() }
}

/// `text` in one line, as nothing but text.
pub(super) fn plain(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        if matches!(c, '\\' | '|' | '<' | '>' | '*' | '`' | '[' | ']') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_say_is_text() {
        assert_eq!(
            plain("a | b\n<script> `x` *y* [z] \\ v3_x"),
            "a \\| b \\<script\\> \\`x\\` \\*y\\* \\[z\\] \\\\ v3_x"
        );
    }

    #[test]
    fn a_table_without_rows_is_none() {
        assert_eq!(table(["a", "b"], []), "");
        let text = table(["a", "b"], [["1".into(), "x|y".into()]]);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!((lines[0], lines[2], lines.len()), ("| a | b    |", "| 1 | x\\|y |", 3));
        assert!(lines[1].chars().all(|c| matches!(c, '|' | '-')), "{}", lines[1]);
    }
}
