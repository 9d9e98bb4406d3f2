//! The verbs of images.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use mica_archive::Digest;
use mica_archive::apply::UnsupportedXattrs;

use super::output::Output;
use super::table::{ListFlags, Table};
use super::{Outcome, human, print};
use crate::{Engine, Error, ImportOptions, Reference, Result};

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    Images(Images),
    /// Make an image of the tarball of a root file system
    Import(Import),
    /// Load images from an archive
    Load(Load),
    /// Save images to an archive that every engine can load
    Save(Save),
    /// Give an image another name
    Tag {
        /// A name or an id
        image: String,
        /// The new name
        name: String,
    },
    /// Remove images, or names of them
    Rmi(Rmi),
    /// Show how an image came to be
    History(History),
}

#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Only images of this repository, or of this name
    repository: Option<String>,
    /// All images; there are none that are hidden
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The tarball, plain or compressed with gzip, zstd, xz or bzip2; '-' is standard input
    file: PathBuf,
    /// The name of the image
    name: Option<String>,
    /// Change the image's config by a Dockerfile instruction: CMD, ENV, ENTRYPOINT, WORKDIR, USER, EXPOSE, LABEL, VOLUME
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// What the history of the image says
    #[arg(short, long)]
    message: Option<String>,
    #[command(flatten)]
    xattrs: XattrsFlag,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Read from this file, not from standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    xattrs: XattrsFlag,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Write to this file, not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Remove all names of an image; let an image that a container uses lose its names
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// A name or an id
    image: String,
    #[command(flatten)]
    list: ListFlags,
}

#[derive(Debug, Args)]
pub(super) struct XattrsFlag {
    /// What happens to extended attributes that this host cannot keep
    #[arg(long, value_enum, default_value_t = Xattrs::Strict, value_name = "POLICY")]
    pub(super) xattrs: Xattrs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Xattrs {
    /// Refuse the layer
    Strict,
    /// Leave them out and say so
    Warn,
}

impl From<Xattrs> for UnsupportedXattrs {
    fn from(flag: Xattrs) -> Self {
        match flag {
            Xattrs::Strict => Self::Strict,
            Xattrs::Warn => Self::Warn,
        }
    }
}

/// Does it.
pub(crate) fn run(engine: &Engine, command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::Images(flags) => list(engine, &flags)?,
        ImageCommand::Import(flags) => import(engine, flags)?,
        ImageCommand::Load(flags) => load(engine, &flags)?,
        ImageCommand::Save(flags) => save(engine, &flags)?,
        ImageCommand::Tag { image, name } => engine.tag(&image, &name.parse()?)?,
        ImageCommand::Rmi(flags) => return remove(engine, &flags),
        ImageCommand::History(flags) => history(engine, &flags)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(engine: &Engine, flags: &Images) -> Result<()> {
    const COLUMNS: [super::table::Column; 8] = [
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("CreatedAt", "CREATED AT"),
        ("Digest", "DIGEST"),
        ("Containers", "CONTAINERS"),
    ];
    let wanted = flags.repository.as_deref().map(str::parse::<Reference>).transpose()?;
    // A tag that goes without saying is not one that was asked for.
    let has_tag = flags
        .repository
        .as_deref()
        .is_some_and(|text| text.rsplit('/').next().is_some_and(|n| n.contains(':')));
    let is_wanted = |name: Option<&Reference>| match (&wanted, name) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wanted), Some(name)) if has_tag => wanted == name,
        (Some(wanted), Some(name)) => wanted.repository() == name.repository(),
    };
    let uses = if flags.list.format.is_some() { engine.image_uses()? } else { BTreeMap::new() };
    let mut table = Table::new(&COLUMNS, 5);
    let mut ids: Vec<String> = Vec::new();
    let listing = engine.images()?;
    print::damage(&listing);
    for one in listing.found {
        let names = one.names.iter().filter(|name| is_listed(name, &one.names)).map(Some);
        let names = names.chain(one.names.is_empty().then_some(None));
        for name in names.filter(|name| is_wanted(*name)) {
            let none = || "<none>".to_owned();
            let digest = name.and_then(|name| digest_of(name, &one.names));
            let id = if flags.list.no_trunc { one.image.id().to_string() } else { one.image.short_id() };
            ids.push(id.clone());
            table.row(vec![
                name.map_or_else(none, Reference::repository),
                name.and_then(Reference::tag).map_or_else(none, str::to_owned),
                id,
                human::ago(one.image.created()),
                human::size(one.size),
                human::date(one.image.created()),
                digest.map_or_else(none, ToString::to_string),
                uses.get(one.image.id()).copied().unwrap_or(0).to_string(),
            ]);
        }
    }
    if flags.list.quiet {
        ids.dedup();
        return print::text(&ids.iter().flat_map(|id| [id, "\n"]).collect::<String>());
    }
    print::text(&table.render(flags.list.format.as_deref())?)
}

/// A digest is no line of its own where its repository has a tag.
fn is_listed(name: &Reference, names: &[Reference]) -> bool {
    let is_beside = |other: &Reference| other.tag().is_some() && other.repository() == name.repository();
    name.tag().is_some() || !names.iter().any(is_beside)
}

/// The digest by which the repository of a name has the image.
fn digest_of<'a>(name: &Reference, names: &'a [Reference]) -> Option<&'a Digest> {
    names.iter().filter(|other| other.repository() == name.repository()).find_map(Reference::digest)
}

fn import(engine: &Engine, flags: Import) -> Result<()> {
    let message = flags.message.unwrap_or_else(|| format!("Imported from {}", flags.file.display()));
    let options = ImportOptions {
        name: flags.name.as_deref().map(str::parse).transpose()?,
        changes: flags.changes,
        message,
        xattrs: flags.xattrs.xattrs.into(),
    };
    let path = Some(&flags.file).filter(|file| *file != Path::new("-"));
    let mut source: Box<dyn Read + Send> = Box::new(open(path, "mica import -")?);
    let imported = engine.import(&mut source, &options).map_err(of_archive("import", path, "a tar"))?;
    imported.warnings.iter().for_each(|warning| print::warning(warning));
    print::line(&imported.image.id().to_string())
}

fn load(engine: &Engine, flags: &Load) -> Result<()> {
    let path = flags.input.as_ref();
    let loaded = engine.load(open(path, "mica load")?, flags.xattrs.xattrs.into());
    let taken = "what 'docker save' writes or an OCI layout, as a tar";
    for loaded in loaded.map_err(of_archive("load", path, taken))? {
        loaded.warnings.iter().for_each(|warning| print::warning(warning));
        if flags.quiet {
            continue;
        }
        if loaded.names.is_empty() {
            print::line(&format!("Loaded image ID: {}", loaded.image))?;
        }
        for name in &loaded.names {
            print::line(&format!("Loaded image: {name}"))?;
        }
    }
    Ok(())
}

/// A file, or standard input. A terminal is no archive, nor is a directory, but `reader` takes what packs one.
fn open(path: Option<&PathBuf>, reader: &str) -> Result<File> {
    if let Some(path) = path {
        let failed = || format!("open '{}'", path.display());
        let file = File::open(path).map_err(Error::io(failed))?;
        if file.metadata().map_err(Error::io(failed))?.is_dir() {
            let path = path.display();
            let text = format!("'{path}' is a directory; pack it: tar -C '{path}' -c . | {reader}");
            return Err(Error::Invalid(text));
        }
        return Ok(file);
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Error::Invalid("standard input is a terminal; name a file, or redirect one".to_owned()));
    }
    let duplicate = stdin.as_fd().try_clone_to_owned();
    duplicate.map(File::from).map_err(Error::io(|| "open standard input".to_owned()))
}

/// Names the archive that an error is about, and says what would work: what is `taken`, where it is none from its first
/// byte on.
fn of_archive<'a>(
    verb: &'a str,
    path: Option<&'a PathBuf>,
    taken: &'a str,
) -> impl FnOnce(Error) -> Error + 'a {
    // A tar begins with a header of so many bytes.
    const HEADER: u64 = 512;
    move |error| {
        let source = path.map_or_else(|| "standard input".to_owned(), |path| format!("'{}'", path.display()));
        let advice = match &error {
            Error::Archive(mica_archive::Error::Corrupt { offset: ..HEADER, .. }) => {
                format!("give {taken}, plain or compressed with gzip, zstd, xz or bzip2")
            }
            Error::Archive(mica_archive::Error::Attribute { .. }) => {
                "'--xattrs warn' goes on without it".to_owned()
            }
            _ => return Error::doing(|| format!("{verb} {source}"))(error),
        };
        Error::Invalid(format!("{}; {advice}", Error::doing(|| format!("{verb} {source}"))(error)))
    }
}

fn save(engine: &Engine, flags: &Save) -> Result<()> {
    let Some(path) = &flags.output else {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(Error::Invalid(
                "standard output is a terminal; use -o FILE, or redirect it".to_owned(),
            ));
        }
        return engine.save(&flags.images, stdout.lock());
    };
    let mut output = Output::create(path)?;
    engine.save(&flags.images, &mut output)?;
    output.put_in_place()
}

fn remove(engine: &Engine, flags: &Rmi) -> Outcome {
    let mut status = ExitCode::SUCCESS;
    for text in &flags.images {
        match engine.remove_image(text, flags.force) {
            Ok(removed) => {
                for name in &removed.untagged {
                    print::line(&format!("Untagged: {name}"))?;
                }
                for id in &removed.deleted {
                    print::line(&format!("Deleted: {id}"))?;
                }
            }
            Err(error) => {
                print::error(&error);
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

fn history(engine: &Engine, flags: &History) -> Result<()> {
    const COLUMNS: [super::table::Column; 6] = [
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
        ("CreatedAt", "CREATED AT"),
    ];
    let image = engine.image(&flags.image)?;
    let mut id = Some(if flags.list.no_trunc { image.id().to_string() } else { image.short_id() });
    if flags.list.quiet {
        return print::line(&id.unwrap_or_default());
    }
    let mut table = Table::new(&COLUMNS, 5);
    for step in engine.history(&image)? {
        table.row(vec![
            id.take().unwrap_or_else(|| "<missing>".to_owned()),
            human::ago(step.created),
            shortened(&step.created_by, flags.list.no_trunc),
            human::size(step.size),
            step.comment,
            human::date(step.created),
        ]);
    }
    print::text(&table.render(flags.list.format.as_deref())?)
}

/// The first 45 characters of a command, in one line.
fn shortened(text: &str, is_whole: bool) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if is_whole || text.chars().count() <= 45 {
        return text;
    }
    text.chars().take(44).chain(['…']).collect()
}
