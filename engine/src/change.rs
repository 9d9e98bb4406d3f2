//! Instructions that change an image's config, as `import --change` and `commit --change` take them: a line of a
//! Dockerfile each.

use std::collections::HashMap;

use oci_spec::image::Config;

use crate::{Error, Result};

const KNOWN: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR";

/// Changes `config` as the instruction says. Fails with the list of those that exist.
pub fn apply(config: &mut Config, instruction: &str) -> Result<()> {
    let refuse = |why: &str| Error::Invalid(format!("--change '{}': {why}", instruction.escape_debug()));
    let (verb, rest) = instruction.trim().split_once(char::is_whitespace).unwrap_or((instruction.trim(), ""));
    let rest = rest.trim();
    if rest.is_empty() && verb.chars().all(char::is_alphabetic) && is_known(verb) {
        return Err(refuse("it has no value"));
    }
    match verb.to_ascii_uppercase().as_str() {
        "CMD" => {
            config.set_cmd(Some(command(rest)));
        }
        "ENTRYPOINT" => {
            config.set_entrypoint(Some(command(rest)));
        }
        "USER" => {
            config.set_user(Some(rest.to_owned()));
        }
        "WORKDIR" => {
            let base = config.working_dir().clone().unwrap_or_else(|| "/".to_owned());
            let path = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", base.trim_end_matches('/'))
            };
            config.set_working_dir(Some(path));
        }
        "STOPSIGNAL" => {
            config.set_stop_signal(Some(rest.to_owned()));
        }
        "EXPOSE" => {
            let ports = rest.split_whitespace().map(port).collect::<Option<Vec<_>>>();
            let ports = ports.ok_or_else(|| refuse("a port is NUMBER, NUMBER/tcp or NUMBER/udp"))?;
            config.set_exposed_ports(Some(joined(config.exposed_ports(), ports)));
        }
        "VOLUME" => {
            let paths = list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
            config.set_volumes(Some(joined(config.volumes(), paths)));
        }
        "ENV" => {
            let mut env = config.env().clone().unwrap_or_default();
            for (name, value) in pairs(rest).ok_or_else(|| refuse("write NAME=VALUE"))? {
                env.retain(|known| known.split('=').next() != Some(&name));
                env.push(format!("{name}={value}"));
            }
            config.set_env(Some(env));
        }
        "LABEL" => {
            let mut labels: HashMap<String, String> = config.labels().clone().unwrap_or_default();
            labels.extend(pairs(rest).ok_or_else(|| refuse("write NAME=VALUE"))?);
            config.set_labels(Some(labels));
        }
        _ => return Err(refuse(&format!("unknown instruction; those that exist are: {KNOWN}"))),
    }
    Ok(())
}

fn is_known(verb: &str) -> bool {
    KNOWN.split(", ").any(|known| known.eq_ignore_ascii_case(verb))
}

/// A JSON list as it is, anything else by the shell.
fn command(text: &str) -> Vec<String> {
    list(text).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn port(text: &str) -> Option<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_port =
        number.parse::<u16>().is_ok_and(|port| port > 0) && matches!(protocol, "tcp" | "udp" | "sctp");
    is_port.then(|| format!("{number}/{protocol}"))
}

fn joined(known: &Option<Vec<String>>, more: Vec<String>) -> Vec<String> {
    let mut all = known.clone().unwrap_or_default();
    all.extend(more);
    all.sort();
    all.dedup();
    all
}

/// `A=1 B="two words"`, or the old form `A one value`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let first = text.split_whitespace().next()?;
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words(text)?
        .into_iter()
        .map(|word| {
            let (name, value) = word.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Words as a shell splits them: quotes and backslashes; `None` for an open quote.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('"') | None) => word.get_or_insert_default().push(chars.next()?),
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(instructions: &[&str]) -> Config {
        let mut config = Config::default();
        for instruction in instructions {
            apply(&mut config, instruction).unwrap();
        }
        config
    }

    #[test]
    fn instructions_are_read_as_in_a_dockerfile() {
        let config = changed(&[
            r#"CMD ["sh", "-c", "echo hi"]"#,
            "ENTRYPOINT exec top -b",
            r#"ENV A=1 B="two words" C=x\ y"#,
            "ENV A 2",
            "WORKDIR /srv",
            "WORKDIR data",
            "EXPOSE 80 53/udp",
            r#"LABEL a=b "c d"=e"#,
            r#"VOLUME ["/v"]"#,
            "volume /w",
            "USER nobody:nogroup",
        ]);
        let text = |items: &[&str]| Some(items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>());
        assert_eq!(config.cmd(), &text(&["sh", "-c", "echo hi"]));
        assert_eq!(config.entrypoint(), &text(&["/bin/sh", "-c", "exec top -b"]));
        assert_eq!(config.env(), &text(&["B=two words", "C=x y", "A=2"]));
        assert_eq!(config.working_dir().as_deref(), Some("/srv/data"));
        assert_eq!(config.exposed_ports(), &text(&["53/udp", "80/tcp"]));
        assert_eq!(config.volumes(), &text(&["/v", "/w"]));
        assert_eq!(config.labels().as_ref().unwrap()["c d"], "e");
        assert_eq!(config.user().as_deref(), Some("nobody:nogroup"));
    }

    #[test]
    fn what_is_no_instruction_is_refused_with_those_that_exist() {
        for bad in [
            "",
            "RUN ls",
            "CMD",
            "ENV",
            "ENV A",
            "ENV =1",
            "ENV A=\"x",
            "EXPOSE 0",
            "EXPOSE x",
            "EXPOSE 1/icmp",
        ] {
            let text = apply(&mut Config::default(), bad).unwrap_err().to_string();
            assert!(text.starts_with("--change '"), "{text}");
        }
        let text = apply(&mut Config::default(), "RUN ls").unwrap_err().to_string();
        assert!(text.contains("those that exist are: CMD, "), "{text}");
    }
}
