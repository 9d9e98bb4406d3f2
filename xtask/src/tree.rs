//! The workspace's crates and what they depend on, as `cargo tree` prints them.

use crate::Result;
use crate::run::{cargo, output};

/// A crate of the workspace and its direct dependencies.
#[derive(Debug, PartialEq)]
pub(crate) struct Crate {
    pub(crate) name: String,
    /// Relative to the workspace, such as `drivers/vfs`.
    pub(crate) dir: String,
    pub(crate) needs: Vec<Dependency>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Where it lies in this workspace; none when it comes from elsewhere.
    pub(crate) dir: Option<String>,
}

/// The crates with their edges of the given `kinds` (`normal,build` or `dev`), on any target, with all features.
pub(crate) fn crates(kinds: &str) -> Result<Vec<Crate>> {
    let root = std::env::current_dir().map_err(|e| format!("no current directory: {e}"))?;
    let mut tree = cargo();
    tree.args(["tree", "--workspace", "--no-dedupe", "--all-features", "--target=all"]);
    tree.args(["--prefix=depth", "--depth=1", "--format={p}", "--edges", kinds]);
    Ok(parse(&output(&mut tree)?, &root.to_string_lossy()))
}

fn parse(text: &str, root: &str) -> Vec<Crate> {
    let mut crates: Vec<Crate> = Vec::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix('0') {
            let Dependency { name, dir } = dependency(line, root);
            crates.push(Crate { name, dir: dir.unwrap_or_default(), needs: Vec::new() });
        } else if let (Some(line), Some(last)) = (line.strip_prefix('1'), crates.last_mut()) {
            last.needs.push(dependency(line, root));
        }
    }
    crates
}

/// Reads `NAME vVERSION`, which is followed by `(PATH)` for a crate of the workspace.
fn dependency(line: &str, root: &str) -> Dependency {
    let name = line.split(' ').next().unwrap_or_default().to_owned();
    let path = line.rsplit_once('(').and_then(|(_, path)| path.strip_suffix(')'));
    let dir = path.and_then(|path| path.strip_prefix(root)).map(|dir| dir.trim_start_matches('/').to_owned());
    Dependency { name, dir }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_of_ours_are_told_by_their_path() {
        let text = "0mica-vfs v0.1.0 (/src/mica/drivers/vfs)\n1mica-core v0.1.0 (/src/mica/core)\n\
                    1serde_derive v1.0.2 (proc-macro)\n\n0xtask v0.1.0 (/src/mica/xtask)\n";
        let crates = parse(text, "/src/mica");
        assert_eq!((crates[0].name.as_str(), crates[0].dir.as_str()), ("mica-vfs", "drivers/vfs"));
        assert_eq!(crates[0].needs[0].dir.as_deref(), Some("core"));
        assert_eq!(crates[0].needs[1], Dependency { name: "serde_derive".to_owned(), dir: None });
        assert!(crates[1].needs.is_empty());
    }
}
