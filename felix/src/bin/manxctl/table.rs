//! Tables as kubectl prints them: columns, no borders.

use comfy_table::{ContentArrangement, Table, presets};

/// A table under its headers; `none` where there is nothing to show. Ends with a newline.
pub fn table<const N: usize>(headers: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headers);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    if table.is_empty() {
        return "none\n".to_owned();
    }
    table.trim_fmt() + "\n"
}

/// One thing's properties, a line each, values under each other. Ends with a newline.
pub fn facts<const N: usize>(facts: [(&str, String); N]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
    facts.map(|(name, value)| format!("{:<width$}  {value}\n", format!("{name}:"))).concat()
}

/// `-` for nothing.
pub fn or_dash(text: impl Into<Option<String>>) -> String {
    text.into().filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// Seconds as kubectl shows ages: `42s`, `12m`, `7h`, `3d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Values one behind the other; `-` for none.
pub fn list(values: impl IntoIterator<Item = impl ToString>) -> String {
    or_dash(values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_and_lines_have_no_tail() {
        let text = table(
            ["NAME", "USED"],
            [["a".to_owned(), "1/64".to_owned()], ["longer".to_owned(), "2".to_owned()]],
        );
        assert_eq!(text, "NAME     USED\na        1/64\nlonger   2\n");
        assert_eq!(table(["NAME"], []), "none\n");
    }

    #[test]
    fn ages_have_one_unit() {
        assert_eq!(
            [119, 120, 7_199, 7_200, 172_799, 172_800].map(age),
            ["119s", "2m", "119m", "2h", "47h", "2d"]
        );
    }
}
