//! What a union of directories costs: the kernel's overlayfs, fuse-overlayfs and Mica's AUFS, on the same directories.
//!
//! The directories are on a tmpfs, so that nothing but the union is measured. Each sample is taken on a mount of its own, and
//! counts what the process that serves it used.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use super::{Bound, Contender, Row, What, clear, make};
use crate::mounted::{Mounted, Union, Way};
use crate::stage::Stage;
use crate::{Result, client, measure};

const OVERLAY: &str = "overlayfs";
const FUSE_OVERLAYFS: &str = "fuse-overlayfs";
const CACHED: &str = "aufs, cached";
const PASSTHROUGH: &str = "aufs, passthrough";
const STALE: &str = "aufs, stale reads";
const ALONE: &str = "aufs, one branch";

/// Where the unions are.
const DIR: &str = "tmpfs/union";
/// A tree of files, and one large file.
const TREE: &[&str] = &["empty", "tree"];
/// What the tree has: files in each of so many directories.
const FILES: [&str; 2] = ["100", "150"];
/// In MiB.
const LARGE: &str = "256";
/// Lower branches of a union that has many.
const MANY: usize = 126;

/// What is done on a mount.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    /// Whether there is a branch to write to.
    writable: bool,
    /// Done on the mount before, and not measured.
    first: Option<fn(&Site) -> Command>,
    measured: fn(&Site) -> Command,
    /// What it may cost, and beside whom.
    bounds: &'static [(&'static str, &'static str, f64)],
}

/// Where it is done.
struct Site {
    base: PathBuf,
    at: PathBuf,
}

impl Site {
    fn client(&self, verb: &str, path: &str, more: &[&str]) -> Command {
        let mut command = client::command(verb);
        command.arg(self.at.join(path)).args(more).current_dir(&self.base);
        command
    }

    fn walk(&self) -> Command {
        let mut command = Command::new("find");
        command.arg(&self.at).args(["-printf", "%s\n"]);
        command
    }

    fn look(&self) -> Command {
        self.client("lstat", "", &["names"])
    }

    fn untar(&self) -> Command {
        let mut command = Command::new("tar");
        command.arg("xf").arg(self.base.join("tree.tar")).arg("-C").arg(&self.at);
        command
    }
}

const WORKS: &[Work] = &[
    Work {
        name: "union.read.lower",
        writable: true,
        first: None,
        measured: |site| site.client("read", "large", &[]),
        bounds: &[(CACHED, OVERLAY, 4.0), (STALE, OVERLAY, 1.1)],
    },
    Work {
        name: "union.read.upper",
        writable: true,
        first: Some(|site| site.client("write", "new", &[LARGE])),
        measured: |site| site.client("read", "new", &[]),
        bounds: &[(PASSTHROUGH, OVERLAY, 1.1)],
    },
    Work {
        name: "union.read.read-only",
        writable: false,
        first: None,
        measured: |site| site.client("read", "large", &[]),
        bounds: &[(PASSTHROUGH, OVERLAY, 1.1)],
    },
    Work {
        name: "union.write",
        writable: true,
        first: None,
        measured: |site| site.client("write", "new", &[LARGE]),
        bounds: &[(PASSTHROUGH, OVERLAY, 1.1)],
    },
    Work {
        name: "union.copy-up",
        writable: true,
        first: None,
        measured: |site| site.client("append", "large", &[]),
        bounds: &[],
    },
    Work {
        name: "union.walk.cold",
        writable: true,
        first: None,
        measured: Site::walk,
        bounds: &[(CACHED, OVERLAY, 2.0), (PASSTHROUGH, OVERLAY, 2.0)],
    },
    Work {
        name: "union.walk.warm",
        writable: true,
        first: Some(Site::walk),
        measured: Site::walk,
        bounds: &[(CACHED, OVERLAY, 1.2), (PASSTHROUGH, OVERLAY, 1.2)],
    },
    Work {
        name: "union.lstat.cold",
        writable: true,
        first: None,
        measured: Site::look,
        bounds: &[(CACHED, OVERLAY, 6.0), (PASSTHROUGH, OVERLAY, 6.0)],
    },
    Work {
        name: "union.lstat.warm",
        writable: true,
        first: Some(Site::look),
        measured: Site::look,
        bounds: &[(CACHED, OVERLAY, 1.2), (PASSTHROUGH, OVERLAY, 1.2)],
    },
    Work {
        name: "union.create-unlink",
        writable: true,
        first: None,
        measured: |site| site.client("create", "", &["16", "500"]),
        bounds: &[(CACHED, OVERLAY, 8.0), (PASSTHROUGH, OVERLAY, 8.0), (CACHED, ALONE, 1.3)],
    },
    Work {
        name: "union.untar",
        writable: true,
        first: None,
        measured: Site::untar,
        bounds: &[(CACHED, OVERLAY, 10.0), (PASSTHROUGH, OVERLAY, 10.0), (CACHED, ALONE, 1.3)],
    },
];

/// The same work on every kind of union.
pub(super) fn each_way(stage: &Stage) -> Result<Vec<Row<'_>>> {
    let base = prepare(stage)?;
    Ok(WORKS.iter().map(|work| row(stage, &base, work)).collect())
}

fn row<'a>(stage: &'a Stage, base: &Path, work: &Work) -> Row<'a> {
    let mut ways = vec![
        (OVERLAY, Way::Overlay),
        (FUSE_OVERLAYFS, Way::FuseOverlayfs),
        (CACHED, Way::Aufs("nopassthrough")),
        (PASSTHROUGH, Way::Aufs("rw")),
    ];
    let compared = |name: &str| work.bounds.iter().any(|(of, with, _)| [*of, *with].contains(&name));
    ways.extend(compared(STALE).then_some((STALE, Way::Aufs("stale_reads"))));
    ways.extend(compared(ALONE).then_some((ALONE, Way::Alone)));
    let lowers: Vec<PathBuf> = TREE.iter().map(PathBuf::from).collect();
    let contenders = ways.into_iter().map(|(name, way)| contender(stage, base, name, way, &lowers, work));
    let worst = [CACHED, PASSTHROUGH].map(|of| Bound::ratio(What::Cpu, of, FUSE_OVERLAYFS, 1.0));
    let bounds = work.bounds.iter().map(|&(of, with, most)| Bound::ratio(What::Cpu, of, with, most));
    Row { name: work.name, contenders: contenders.collect(), bounds: bounds.chain(worst).collect() }
}

/// What must not grow with the number of branches, nor of files in a directory.
pub(super) fn large(stage: &Stage) -> Result<Vec<Row<'_>>> {
    let base = prepare(stage)?;
    let many = |dir: &str| -> Vec<_> { (0..MANY).map(|n| PathBuf::from(format!("{dir}/{n}"))).collect() };
    let walk =
        Work { name: "union.branches", writable: true, first: None, measured: Site::walk, bounds: &[] };
    let dense = Work { name: "union.branches.dense", ..walk };
    let half = Work {
        name: "union.one-directory",
        measured: |site| site.client("create", "", &["1", "7500"]),
        ..walk
    };
    let whole = Work { measured: |site| site.client("create", "", &["1", "15000"]), ..half };
    let aufs = Way::Aufs("rw");
    let two = [PathBuf::from("merged")];
    let take =
        |name: &str, way, lowers: &[PathBuf], work: &Work| contender(stage, &base, name, way, lowers, work);
    let branches = |work: &Work, lowers: &[PathBuf]| Row {
        name: work.name,
        contenders: vec![
            take("aufs, 127 branches", aufs, lowers, work),
            take("aufs, 2 branches", aufs, &two, work),
            take("overlayfs, 127 branches", Way::Overlay, lowers, work),
        ],
        bounds: vec![Bound::ratio(What::Cpu, "aufs, 127 branches", "aufs, 2 branches", 1.5)],
    };
    Ok(vec![
        branches(&walk, &many("dealt")),
        branches(&dense, &many("spread")),
        Row {
            name: half.name,
            contenders: vec![
                take("aufs, 15,000 files", aufs, &two, &whole),
                take("aufs, 7,500 files", aufs, &two, &half),
                take("overlayfs, 15,000 files", Way::Overlay, &two, &whole),
            ],
            bounds: vec![Bound::ratio(What::Cpu, "aufs, 15,000 files", "aufs, 7,500 files", 2.3)],
        },
    ])
}

/// Does the work on a mount of its own, with an empty writable branch.
fn contender<'a>(
    stage: &'a Stage,
    base: &Path,
    name: &str,
    way: Way,
    lowers: &[PathBuf],
    work: &Work,
) -> Contender<'a> {
    let site = Rc::new(Site { base: base.to_owned(), at: base.join("at") });
    let union = Union { base: base.to_owned(), lowers: lowers.to_owned(), writable: work.writable, way };
    let (first, measured) = (work.first, work.measured);
    let mounted: Rc<RefCell<Option<Mounted>>> = Rc::default();
    let (server, unmounted, there) = (mounted.clone(), mounted.clone(), site.clone());
    let upper = base.join("rw");
    Contender::new(name, move || measured(&site))
        .before(move || {
            *mounted.borrow_mut() = Some(union.mount(stage, &there.at)?);
            first.map_or(Ok(()), |first| measure::run(&mut first(&there)).map(drop))
        })
        .beside(move || server.borrow().as_ref().map_or(Ok(0), Mounted::cpu))
        .after(move || {
            if let Some(mounted) = unmounted.take() {
                mounted.unmount()?;
            }
            clear(&upper)
        })
}

/// Makes the directories, unless they are there.
fn prepare(stage: &Stage) -> Result<PathBuf> {
    let base = stage.path(DIR);
    if base.exists() {
        return Ok(base);
    }
    make(&base)?;
    for dir in ["at", "empty", "tree", "merged", "dealt", "spread"] {
        make(&base.join(dir))?;
    }
    let run = |command: &mut Command| measure::run(command.current_dir(&base)).map(drop);
    run(client::command("files").arg("tree").args(FILES))?;
    run(Command::new("sh").args(["-c", "find tree -type f -printf '%P\\n' | sort > names"]))?;
    run(Command::new("tar").args(["cf", "tree.tar", "-C", "tree", "."]))?;
    run(client::command("write").args(["tree/large", LARGE]))?;
    // The same files in one branch, and in many: with directories of their own, and with all directories in each.
    run(client::command("files").arg("merged").args(FILES))?;
    for way in ["dealt", "spread"] {
        (0..MANY).try_for_each(|number| make(&base.join(format!("{way}/{number}"))))?;
    }
    run(client::command("deal").args(["merged", "dealt"]).arg(MANY.to_string()))?;
    run(client::command("spread").args(["merged", "spread"]).arg(MANY.to_string()))?;
    Ok(base)
}
