//! Branches as people and programs write them.

mod words;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use mica_core::{Error, Result};

pub(crate) use words::{split, unescape};

/// As many as AUFS can be built for.
const MOST: usize = 32767;

/// A branch as it was given: a directory, and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchSpec {
    /// The directory.
    pub path: PathBuf,
    /// What may be done with it.
    pub permission: Permission,
}

/// What may be done with a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It is written (`rw`). Whiteouts count on it.
    Writable {
        /// AUFS would make each whiteout a file of its own (`nolwh`). Here it is a link wherever it can be one, which is the
        /// same to who reads it.
        whole_whiteouts: bool,
    },
    /// It is not written.
    ReadOnly {
        /// It cannot be written by anybody (`rr`), which makes no difference here.
        real: bool,
        /// Whiteouts count on it (`wh`). Otherwise the names that begin as theirs do are hidden, and that is all.
        whiteouts: bool,
    },
}

impl Permission {
    /// Whether the branch may be written.
    pub fn is_writable(self) -> bool {
        matches!(self, Self::Writable { .. })
    }

    /// Whether whiteouts hide other names.
    pub fn has_whiteouts(self) -> bool {
        matches!(self, Self::Writable { .. } | Self::ReadOnly { whiteouts: true, .. })
    }

    /// The same, but for a mount that is not written.
    #[must_use]
    pub fn frozen(self) -> Self {
        Self::ReadOnly {
            real: matches!(self, Self::ReadOnly { real: true, .. }),
            whiteouts: self.has_whiteouts(),
        }
    }

    /// As AUFS shows it: `rw`, `rw+nolwh`, `ro`, `ro+wh`, `rr`, `rr+wh`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Writable { whole_whiteouts: false } => "rw",
            Self::Writable { whole_whiteouts: true } => "rw+nolwh",
            Self::ReadOnly { real: false, whiteouts: false } => "ro",
            Self::ReadOnly { real: false, whiteouts: true } => "ro+wh",
            Self::ReadOnly { real: true, whiteouts: false } => "rr",
            Self::ReadOnly { real: true, whiteouts: true } => "rr+wh",
        }
    }

    /// Reads `rw`, `ro` or `rr` and the attributes that follow, each after a `+`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split('+');
        let mut permission = match parts.next() {
            Some("rw") => Self::Writable { whole_whiteouts: false },
            Some("ro") => Self::ReadOnly { real: false, whiteouts: false },
            Some("rr") => Self::ReadOnly { real: true, whiteouts: false },
            _ => {
                return Err(refused(format!(
                    "'{text}' is no permission of a branch: use rw, ro, ro+wh, rr or rr+wh"
                )));
            }
        };
        for attribute in parts {
            permission.add(attribute)?;
        }
        Ok(permission)
    }

    fn add(&mut self, attribute: &str) -> Result<()> {
        match (self, attribute) {
            (Self::ReadOnly { whiteouts, .. }, "wh") => *whiteouts = true,
            (Self::Writable { whole_whiteouts }, "nolwh") => *whole_whiteouts = true,
            // No inode of a branch is held. A file is copied before its first write, and nobody can tell whether that was
            // at its open.
            (_, "unpin" | "coo_reg" | "coo_all") => {}
            (_, "icex" | "icexsec" | "icexsys" | "icextr" | "icexusr" | "icexoth") => {
                // An attribute that cannot be copied is an error on every branch: to leave it out could give a file rights.
            }
            (_, other) => {
                return Err(refused(format!(
                    "a branch cannot have the attribute '{other}' here: there is 'wh' after ro and rr, and 'nolwh' after rw"
                )));
            }
        }
        Ok(())
    }
}

impl BranchSpec {
    /// Reads `PATH=PERMISSION`, in which nothing is escaped: the permission is what follows the last `=`.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().rposition(|&byte| byte == b'=') else {
            return Err(refused(format!("'{}' is no branch: write it as PATH=PERMISSION", text.display())));
        };
        let (path, permission) = (&bytes[..at], String::from_utf8_lossy(&bytes[at + 1..]));
        Self::new(path, Permission::parse(&permission)?)
    }

    fn new(path: &[u8], permission: Permission) -> Result<Self> {
        if path.is_empty() || path.contains(&0) {
            return Err(refused("a branch has no path"));
        }
        Ok(Self { path: PathBuf::from(OsString::from_vec(path.to_vec())), permission })
    }

    /// `PATH=PERMISSION`, as AUFS shows it in `/sys/fs/aufs/si_ID/brN` and as [`parse`](Self::parse) reads it.
    pub fn text(&self) -> OsString {
        let mut text = self.path.clone().into_os_string();
        text.push("=");
        text.push(self.permission.text());
        text
    }
}

/// Reads the branches of AUFS's options `br`, `dirs`, `append` and so on: `PATH[=PERMISSION]` and `:` between them. A `\` takes
/// the meaning from a `:`, a `,` or a `\` that follows it.
///
/// Without a permission, `first` says whether the first one of the list is the topmost of all, which is `rw` then; every
/// other is `ro`.
pub fn parse_list(list: &[u8], first: bool) -> Result<Vec<BranchSpec>> {
    let one = |(index, element): (usize, &[u8])| match element.iter().rposition(|&byte| byte == b'=') {
        Some(at) => {
            let permission = Permission::parse(&String::from_utf8_lossy(&element[at + 1..]))?;
            BranchSpec::new(&unescape(&element[..at]), permission)
        }
        None if first && index == 0 => {
            BranchSpec::new(&unescape(element), Permission::Writable { whole_whiteouts: false })
        }
        None => BranchSpec::new(&unescape(element), Permission::ReadOnly { real: false, whiteouts: false }),
    };
    split(list, b':').enumerate().map(one).collect()
}

/// The list that [`parse_list`] reads as these branches.
pub fn list(branches: &[BranchSpec]) -> OsString {
    let mut list = Vec::new();
    for branch in branches {
        if !list.is_empty() {
            list.push(b':');
        }
        list.extend(words::escape(branch.path.as_os_str().as_bytes()));
        list.push(b'=');
        list.extend(branch.permission.text().bytes());
    }
    OsString::from_vec(list)
}

/// Refuses what no union can be made of.
pub fn check(branches: &[BranchSpec]) -> Result<()> {
    if branches.is_empty() {
        return Err(refused("there is no branch: name them by br:PATH=rw:PATH=ro+wh"));
    }
    if branches.len() > MOST {
        return Err(refused(format!("there are {} branches: at most {MOST} are possible", branches.len())));
    }
    if let Some(other) = branches.iter().skip(1).find(|branch| branch.permission.is_writable()) {
        return Err(refused(format!(
            "branch '{}' cannot be written: only the first one can, so give it the permission ro+wh",
            other.path.display()
        )));
    }
    let mut paths: Vec<_> = branches.iter().map(|branch| branch.path.as_path()).collect();
    if let Some(relative) = paths.iter().find(|path| !path.is_absolute()) {
        return Err(refused(format!("branch '{}' is no absolute path", relative.display())));
    }
    paths.sort_unstable();
    match paths.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(refused(format!("branch '{}' is named twice", pair[0].display()))),
        None => Ok(()),
    }
}

pub(crate) fn refused(why: impl Into<String>) -> Error {
    Error::Options(why.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_permission() -> impl Strategy<Value = Permission> {
        prop_oneof![
            any::<bool>().prop_map(|whole_whiteouts| Permission::Writable { whole_whiteouts }),
            any::<(bool, bool)>().prop_map(|(real, whiteouts)| Permission::ReadOnly { real, whiteouts }),
        ]
    }

    prop_compose! {
        fn any_branch()(path in r"[/a:,=\\+\x80-\xff]{1,12}", permission in any_permission()) -> BranchSpec {
            BranchSpec { path: path.into(), permission }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn what_is_written_as_a_list_is_read_as_the_same(branches in prop::collection::vec(any_branch(), 1..6)) {
            prop_assert_eq!(parse_list(list(&branches).as_bytes(), true).unwrap(), branches);
        }

        #[test]
        fn what_is_written_as_one_branch_is_read_as_the_same(branch in any_branch()) {
            prop_assert_eq!(BranchSpec::parse(&branch.text()).unwrap(), branch);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse_list(&bytes, true);
            let _ = BranchSpec::parse(OsStr::from_bytes(&bytes));
        }
    }

    fn read(list: &str) -> Result<Vec<BranchSpec>> {
        let branches = parse_list(list.as_bytes(), true)?;
        check(&branches)?;
        Ok(branches)
    }

    #[test]
    fn a_list_of_dockers_is_read() {
        let branches =
            read("/var/lib/docker/aufs/diff/c=rw:/var/lib/docker/aufs/diff/c-init=ro+wh:/base=ro+wh")
                .unwrap();
        let texts: Vec<_> = branches.iter().map(|branch| branch.permission.text()).collect();
        assert_eq!(texts, ["rw", "ro+wh", "ro+wh"]);
        assert_eq!(branches[1].text(), "/var/lib/docker/aufs/diff/c-init=ro+wh");
    }

    #[test]
    fn without_permissions_the_first_branch_is_written() {
        let texts: Vec<_> = read("/a:/b:/c").unwrap().iter().map(|branch| branch.permission.text()).collect();
        assert_eq!(texts, ["rw", "ro", "ro"]);
    }

    #[test]
    fn what_cannot_be_a_union_is_refused_with_what_would_work() {
        for (list, words) in [
            ("", "no path"),
            ("/a=rw:/b=rw", "ro+wh"),
            ("/a=rw:/b=rw+wh", "'nolwh' after rw"),
            ("/a=rw:b=ro", "'b' is no absolute path"),
            ("/a=rw:/b=ro:/a=ro", "'/a' is named twice"),
            ("/a=wr", "'wr' is no permission"),
            ("/a=rw+moo", "'moo'"),
            ("/a=rw:=ro", "no path"),
        ] {
            let text = read(list).unwrap_err().to_string();
            assert!(text.contains(words), "{list}: {text}");
        }
    }
}
