//! Lists as Docker prints them, and `--format`.

use std::fmt::Write;

use clap::Args;

use crate::{Error, Result};

/// How a list of things with ids is printed.
#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Cut nothing short
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print by a template, such as '{{.ID}}', or as 'json'
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
}

/// One column: the name in `--format`, and the heading.
pub(crate) type Column = (&'static str, &'static str);

/// Cells are at least this wide, and at least [`GAP`] apart.
const WIDTH: usize = 10;
const GAP: usize = 3;

/// A list with headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [Column],
    shown: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty list. Its first `shown` columns are printed unless `--format` asks for others.
    pub(crate) fn new(columns: &'static [Column], shown: usize) -> Self {
        Self { columns, shown, rows: Vec::new() }
    }

    /// Adds a row, with a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// As text. `format` is `json`, a template such as `{{.ID}}: {{.Tag}}`, or `table` and a template.
    pub(crate) fn render(&self, format: Option<&str>) -> Result<String> {
        match format {
            None | Some("" | "table") => {
                let headings = self.headings();
                let rows = std::iter::once(&headings).chain(&self.rows).map(|row| row[..self.shown].to_vec());
                Ok(align(&rows.collect::<Vec<_>>()))
            }
            Some("json") => self.rows.iter().map(|row| self.json(row)).collect(),
            Some(template) => self.fill_all(template),
        }
    }

    fn fill_all(&self, template: &str) -> Result<String> {
        let (template, is_table) = match template.strip_prefix("table ") {
            Some(template) => (template, true),
            None => (template, false),
        };
        // Also a list without rows tells a wrong template.
        let headings = self.fill(template, &self.headings())?;
        let lines = self.rows.iter().map(|row| self.fill(template, row)).collect::<Result<Vec<_>>>()?;
        if !is_table {
            return Ok(lines.iter().flat_map(|line| [line, "\n"]).collect());
        }
        let cells = |line: &String| line.split('\t').map(str::to_owned).collect();
        Ok(align(&std::iter::once(&headings).chain(&lines).map(cells).collect::<Vec<_>>()))
    }

    fn headings(&self) -> Vec<String> {
        self.columns.iter().map(|(_, heading)| (*heading).to_owned()).collect()
    }

    fn json(&self, row: &[String]) -> Result<String> {
        let object: serde_json::Map<String, serde_json::Value> = self
            .columns
            .iter()
            .zip(row)
            .map(|((key, _), cell)| ((*key).to_owned(), cell.as_str().into()))
            .collect();
        let text = serde_json::to_string(&object).map_err(|e| Error::Invalid(e.to_string()))?;
        Ok(text + "\n")
    }

    /// Puts a row's cells where a template names them: `{{.Key}}` or `{{json .}}`.
    fn fill(&self, template: &str, row: &[String]) -> Result<String> {
        let mut rest = template;
        let mut line = String::new();
        while let Some((before, after)) = rest.split_once("{{") {
            let unclosed = || Error::Invalid(format!("--format: '{{{{' without '}}}}' in '{template}'"));
            let (action, after) = after.split_once("}}").ok_or_else(unclosed)?;
            line.push_str(&unescape(before));
            match action.trim() {
                "json ." => line.push_str(self.json(row)?.trim_end()),
                key => line.push_str(&row[self.position(key)?]),
            }
            rest = after;
        }
        line.push_str(&unescape(rest));
        Ok(line)
    }

    fn position(&self, key: &str) -> Result<usize> {
        let name = key.strip_prefix('.').unwrap_or(key).trim();
        self.columns.iter().position(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<String> = self.columns.iter().map(|(known, _)| format!(".{known}")).collect();
            Error::Invalid(format!(
                "--format: unknown field '{key}'; those of this list are: {}",
                known.join(", ")
            ))
        })
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let widest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        (widest.unwrap_or(0) + GAP).max(WIDTH)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            // Writing into a string does not fail.
            let _ = write!(line, "{cell:width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("ID", "IMAGE ID"), ("Tag", "TAG"), ("Size", "SIZE")], 2);
        table.row(vec!["0123456789ab".into(), "12".into(), "1B".into()]);
        table.row(vec!["x".into(), "<none>".into(), "2B".into()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_dockers() {
        assert_eq!(
            table().render(None).unwrap(),
            "IMAGE ID       TAG\n0123456789ab   12\nx              <none>\n"
        );
    }

    #[test]
    fn a_template_names_its_fields() {
        assert_eq!(table().render(Some("{{.ID}}={{ .Size }}")).unwrap(), "0123456789ab=1B\nx=2B\n");
        assert_eq!(
            table().render(Some("table {{.Tag}}\\t{{.Size}}")).unwrap(),
            "TAG       SIZE\n12        1B\n<none>    2B\n"
        );
        let json = table().render(Some("json")).unwrap();
        assert_eq!(json.lines().next(), Some(r#"{"ID":"0123456789ab","Size":"1B","Tag":"12"}"#));
    }

    #[test]
    fn an_unknown_field_is_refused_with_those_that_exist() {
        let text = table().render(Some("{{.Nme}}")).unwrap_err().to_string();
        assert_eq!(text, "--format: unknown field '.Nme'; those of this list are: .ID, .Tag, .Size");
        assert!(table().render(Some("{{.ID")).is_err());
    }
}
