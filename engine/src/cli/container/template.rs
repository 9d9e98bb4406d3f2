//! The part of Go's templates that people use with `inspect`: fields, `index` and `json`.

use serde_json::Value;

use crate::{Error, Result};

/// Puts fields of `value` where a template names them: `{{.State.Status}}`, `{{json .Mounts}}`,
/// `{{index .Config.Cmd 0}}`.
pub(super) fn fill(template: &str, value: &Value) -> Result<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let unclosed = || Error::Invalid(format!("--format: '{{{{' without '}}}}' in '{template}'"));
        let (action, after) = after.split_once("}}").ok_or_else(unclosed)?;
        text.push_str(&evaluate(action.trim(), value)?);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

fn evaluate(action: &str, value: &Value) -> Result<String> {
    let words: Vec<&str> = action.split_whitespace().collect();
    match words.as_slice() {
        [path] => Ok(plain(field(value, path)?)),
        ["json", path] => Ok(field(value, path)?.to_string()),
        ["index", path, keys @ ..] if !keys.is_empty() => {
            let step = |value: Option<&Value>, key: &&str| -> Option<Value> {
                let value = value?;
                let found = match key.parse::<usize>() {
                    Ok(number) => value.get(number),
                    Err(_) => value.get(key.trim_matches('"')),
                };
                found.cloned()
            };
            let start = Some(field(value, path)?.clone());
            let found = keys.iter().fold(start, |found, key| step(found.as_ref(), key));
            let missing = || Error::Invalid(format!("--format: nothing is at '{action}'"));
            Ok(plain(&found.ok_or_else(missing)?))
        }
        _ => Err(Error::Invalid(format!(
            "--format: '{{{{{action}}}}}' is not understood; write {{{{.Field}}}}, {{{{json .Field}}}} or {{{{index .Field 0}}}}"
        ))),
    }
}

fn field<'a>(value: &'a Value, path: &str) -> Result<&'a Value> {
    let names = path
        .strip_prefix('.')
        .ok_or_else(|| Error::Invalid(format!("--format: '{path}' is no field; write it as '.{path}'")))?;
    names.split('.').filter(|name| !name.is_empty()).try_fold(value, |value, name| {
        value
            .get(name)
            .ok_or_else(|| Error::Invalid(format!("--format: there is no field '{name}' in '{path}'")))
    })
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<no value>".to_owned(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(_) | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_those_missing_are_named() {
        let value =
            serde_json::json!({"State": {"Pid": 7, "Status": "running"}, "Cmd": ["a", "b"], "X": null});
        let filled = |template: &str| fill(template, &value).map_err(|e| e.to_string());
        assert_eq!(filled("{{.State.Status}} {{ .State.Pid }}!").unwrap(), "running 7!");
        assert_eq!(filled("{{json .Cmd}}{{.Cmd}}{{index .Cmd 1}}").unwrap(), "[\"a\",\"b\"][a b]b");
        assert_eq!(filled("{{.X}}").unwrap(), "<no value>");
        for bad in ["{{.Nope}}", "{{State}}", "{{range .Cmd}}", "{{.State", "{{index .Cmd 9}}"] {
            assert!(filled(bad).unwrap_err().starts_with("--format: "), "{bad}");
        }
    }
}
