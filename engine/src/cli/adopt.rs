//! `mica storage adopt`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;

use super::image::XattrsFlag;
use super::table::Table;
use super::{Outcome, human, print};
use crate::adopt::{AdoptOptions, Adoption, Item, Kind};
use crate::{Engine, Result};

#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// The data root of a Docker with the storage driver aufs or overlay2, such as /var/lib/docker
    directory: PathBuf,
    /// Only this image, by name or id; may be given several times
    #[arg(long = "image", value_name = "IMAGE")]
    images: Vec<String>,
    /// Only this container, by name or id, with its image; may be given several times
    #[arg(long = "container", value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Take nothing: list what would be taken, and what cannot be
    #[arg(long)]
    dry_run: bool,
    /// Go on although a Docker works in the directory; what its containers write meanwhile comes in part
    #[arg(short, long)]
    force: bool,
    /// Take a layer as it is whose tarball cannot be made again as it came; its image gets another id
    #[arg(long)]
    accept_changed: bool,
    #[command(flatten)]
    xattrs: XattrsFlag,
}

/// Does it. What fails is named, and the rest goes on.
pub(super) fn run(engine: &Engine, flags: Adopt) -> Outcome {
    let Adopt { directory, images, containers, dry_run, force, accept_changed, xattrs } = flags;
    let options = AdoptOptions { images, containers, force, accept_changed, xattrs: xattrs.xattrs.into() };
    let adoption = engine.adoption(&directory, options)?;
    for warning in adoption.warnings() {
        print::warning(warning);
    }
    if dry_run {
        return list(&adoption);
    }
    let mut failures = Vec::new();
    for item in adoption.items() {
        take(&adoption, item, &mut failures)?;
    }
    Ok(print::failures(&failures))
}

fn take(adoption: &Adoption<'_>, item: &Item, failures: &mut Vec<String>) -> Result<()> {
    let (kind, name) = (item.kind.word(), item.name());
    if !item.is_here && item.refused.is_none() && io::stdout().is_terminal() {
        print::line(&format!("Adopting {kind} {name}, {}", human::size(item.bytes)))?;
    }
    match adoption.take(item) {
        Err(error) => failures.push(format!("{kind} {name} was not adopted: {error}")),
        Ok(adopted) => {
            for warning in &adopted.warnings {
                print::warning(&format!("{kind} {name}: {warning}"));
            }
            let names = if item.names.is_empty() { vec![name.to_owned()] } else { item.names.clone() };
            for name in names {
                print::line(&match adopted.is_new {
                    true => format!("Adopted {kind}: {name}"),
                    false => format!("Already here: {kind} {name}"),
                })?;
            }
        }
    }
    Ok(())
}

fn list(adoption: &Adoption<'_>) -> Outcome {
    const COLUMNS: [super::table::Column; 5] =
        [("Kind", "KIND"), ("Name", "NAME"), ("ID", "ID"), ("Size", "SIZE"), ("Status", "STATUS")];
    let mut table = Table::new(&COLUMNS, 5);
    let mut failures = Vec::new();
    for item in adoption.items() {
        let status = match &item.refused {
            Some(why) => {
                failures.push(format!("{} {} cannot be adopted: {why}", item.kind.word(), item.name()));
                "refused"
            }
            None if item.is_here => "here already",
            None => "to be adopted",
        };
        let names = if item.names.is_empty() { vec!["<none>".to_owned()] } else { item.names.clone() };
        for name in names {
            let (kind, id) = (item.kind.word().to_owned(), item.id[..item.id.len().min(12)].to_owned());
            table.row(vec![kind, name, id, human::size(item.bytes), status.to_owned()]);
        }
    }
    let coming: Vec<&Item> =
        adoption.items().iter().filter(|item| !item.is_here && item.refused.is_none()).collect();
    let many = |kind: Kind| {
        let count = coming.iter().filter(|item| item.kind == kind).count();
        format!("{count} {}{}", kind.word(), if count == 1 { "" } else { "s" })
    };
    let bytes = coming.iter().map(|item| item.bytes).sum();
    let summary = format!("{} and {}, {}", many(Kind::Image), many(Kind::Container), human::size(bytes));
    print::text(&format!("{}\n{summary}\n", table.render(None)?))?;
    Ok(print::failures(&failures))
}
