//! Unions of directories, used without a mount.

mod changes;
mod crashes;
mod limits;
mod threads;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use tempfile::TempDir;

use super::branch::BranchSpec;
use super::node::Node;
use super::{New, Options, Owner, Result, Union};

/// Root, with no umask.
const ROOT: Owner = Owner { uid: 0, gid: 0, umask: 0 };

/// Directories to be branches, the first of which can be written.
struct Branches {
    dir: TempDir,
    count: usize,
}

impl Branches {
    fn new(count: usize) -> Self {
        let dir = TempDir::new().unwrap();
        for number in 0..count {
            fs::create_dir(dir.path().join(number.to_string())).unwrap();
        }
        Self { dir, count }
    }

    fn at(&self, branch: usize, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(branch.to_string()).join(path)
    }

    /// Writes a file, in directories that are made where they are missing.
    fn write(&self, branch: usize, path: impl AsRef<Path>, text: &str) {
        let path = self.at(branch, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn open(&self) -> Arc<Union> {
        let spec =
            |number: usize| BranchSpec { path: self.at(number, ""), writable: number == 0, whiteouts: true };
        Union::open((0..self.count).map(spec).collect(), Options::default()).unwrap()
    }

    /// What is shown when the branches are opened anew.
    fn tree(&self) -> Tree {
        self.open().tree()
    }
}

/// What a union shows, by path: directories, and files with their content.
type Tree = BTreeMap<String, String>;

impl Union {
    /// The node at a path, held once more by nobody.
    fn at(&self, path: &str) -> Result<Arc<Node>> {
        let mut node = Arc::clone(&self.root);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let found = self.lookup(&node, name.as_bytes())?.ok_or(rustix::io::Errno::NOENT)?;
            self.forget(found.node.number, 1);
            node = found.node;
        }
        Ok(node)
    }

    /// The directory that a path is in, and the name there.
    fn place_of<'a>(&self, path: &'a str) -> Result<(Arc<Node>, &'a [u8])> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.at(parent)?, name.as_bytes()))
    }

    fn write_at(&self, path: &str, text: &str) -> Result<()> {
        let node = match self.at(path) {
            Ok(node) => node,
            Err(_) => {
                let (parent, name) = self.place_of(path)?;
                let found = self.create(&parent, name, Mode::from_raw_mode(0o644), ROOT)?.found;
                self.forget(found.node.number, 1);
                found.node
            }
        };
        self.copy_up(&node, 0)?;
        let (file, _) = self.open_node(&node, OFlags::WRONLY | OFlags::TRUNC)?;
        rustix::io::write(file, text.as_bytes()).map(drop)
    }

    fn make_dir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.place_of(path)?;
        let made = self.make(&parent, name, New::Directory(Mode::from_raw_mode(0o755)), ROOT)?;
        self.forget(made.node.number, 1);
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<()> {
        let (parent, name) = self.place_of(path)?;
        match self.at(path)?.kind {
            FileType::Directory => self.remove_directory(&parent, name),
            _ => self.remove_file(&parent, name),
        }
    }

    fn move_to(&self, from: &str, to: &str, flags: u32) -> Result<()> {
        // The kernel holds what it has renamed.
        let _held = self.at(from)?;
        let ((from, name), (to, new_name)) = (self.place_of(from)?, self.place_of(to)?);
        self.rename_entry(&from, name, &to, new_name, flags)
    }

    fn link_to(&self, from: &str, to: &str) -> Result<()> {
        let (parent, name) = self.place_of(to)?;
        let found = self.link(&self.at(from)?, &parent, name)?;
        self.forget(found.node.number, 1);
        Ok(())
    }

    fn read_node(&self, node: &Arc<Node>) -> String {
        let (file, _) = self.open_node(node, OFlags::RDONLY).unwrap();
        let mut text = String::new();
        fs::File::from(file).read_to_string(&mut text).unwrap();
        text
    }

    fn read_at(&self, path: &str) -> String {
        self.read_node(&self.at(path).unwrap())
    }

    /// How many names a file has.
    fn names_at(&self, path: &str) -> u32 {
        self.stat(&self.at(path).unwrap()).unwrap().stx_nlink
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut waiting = vec![(String::new(), Arc::clone(&self.root))];
        while let Some((path, node)) = waiting.pop() {
            for (name, number, kind) in self.listed(&node).unwrap() {
                let path = format!("{path}/{}", String::from_utf8(name).unwrap());
                let below = self.at(&path).unwrap();
                assert_eq!((below.number, below.kind), (number, kind), "{path}");
                if kind == FileType::Directory {
                    tree.insert(path.clone(), "a directory".to_owned());
                    waiting.push((path, below));
                } else {
                    tree.insert(path, self.read_node(&below));
                }
            }
        }
        tree
    }
}
