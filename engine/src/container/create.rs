//! Making a container: everything in a staging directory, then one rename.

use std::fs;
use std::path::Path;

use mica_core::{Begun, LayerOptions, Quota, Store, Support, failpoint};

use super::record::{Record, Settings};
use super::{
    Busy, ConnectWish, Connection, Container, NetworkMode, Source, State, Status, connections, etc,
    init_layer, names, spec, state,
};
use crate::networks::promises;
use crate::reboot::PASSING;
use crate::{Barrier, Engine, Error, Image, Result, Transaction, intent, volumes};

/// What is to be made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The image, by name or id.
    pub image: String,
    /// Its name; `None` makes one up.
    pub name: Option<String>,
    /// How it runs. What is left open the image says.
    pub settings: Settings,
    /// The networks that it is connected to, by name or id, in the order of its interfaces.
    pub networks: Vec<(String, ConnectWish)>,
}

impl Engine {
    /// Makes a container. After an error nothing of it is left.
    pub fn create(&self, options: &CreateOptions) -> Result<Container> {
        self.create_held(options, Status::Created).map(|(container, _)| container)
    }

    /// Makes a container that nobody else can change yet. One that is made to be started at once may be [`Status::Starting`]
    /// from its first moment on: when this process dies before it has a supervisor, it is found as if that had died.
    pub(super) fn create_held(&self, options: &CreateOptions, status: Status) -> Result<(Container, Busy)> {
        if let Some(name) = &options.name {
            names::check(name)?;
        }
        let mut options = options.clone();
        self.settle_networking(&mut options.settings)?;
        let connections = self.resolve(&options.settings.networking, &options.networks)?;
        let id = intent::random_id()? + &intent::random_id()?;
        let made = self.transaction("create a container", Barrier::None, |tx| {
            let record = self.record_in(tx, &options, &id)?;
            let state = State { status, ..State::default() };
            self.put_in_place(tx, record, &connections, options.name.as_deref(), &state)
        });
        made.inspect_err(|_| self.give_up(&id))
    }

    /// Finds the container whose namespace is to be joined, and takes the name that goes with a namespace of others.
    fn settle_networking(&self, settings: &mut Settings) -> Result<()> {
        let theirs = match &mut settings.networking.mode {
            NetworkMode::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
            NetworkMode::Container(name) => {
                let joined = self.container(name)?;
                joined.id().clone_into(name);
                joined.record().hostname()
            }
            NetworkMode::None | NetworkMode::Connected => return Ok(()),
        };
        settings.hostname.get_or_insert(theirs);
        Ok(())
    }

    /// Removes a container that is of no use to anybody, if it is there and does not run.
    pub(super) fn give_up(&self, id: &str) {
        let remove = || match Container::read(self.root().containers().join(id))? {
            Some(container) => {
                let busy = Busy::take(container.dir(), container.name(), "being removed")?;
                self.put_right_held(&container)?;
                self.remove_held(&container, &busy, true)
            }
            None => Ok(()),
        };
        // Why it is given up is what the user is told. One that was to remove itself is tried again by the next command that
        // looks at it.
        let _ = remove();
    }

    fn record_in(&self, tx: &Transaction<'_>, options: &CreateOptions, id: &str) -> Result<Record> {
        let image = tx.image(&options.image)?;
        let store = self.store(None)?;
        let settings = settle(options.settings.clone(), &image)?;
        refuse_limits(&settings, &store)?;
        let (below, left_out) = self.init_layer(tx, &image, &store, &init_layer::fill)?;
        let quota = Quota { bytes: settings.size, inodes: settings.inodes };
        let layer_options = LayerOptions { quota, ..LayerOptions::default() };
        let Begun::Fresh(layer) = store.create(tx.new_layer(&store)?, Some(&below), &layer_options)? else {
            return Err(Error::Conflict(
                "the storage driver has a layer of this new name already".to_owned(),
            ));
        };
        failpoint::hit("create.layer").map_err(Error::io(|| "create a container"))?;
        Ok(Record {
            name: String::new(),
            created: state::now(),
            image: *image.id(),
            image_name: options.image.clone(),
            driver: store.driver().name().to_owned(),
            layer: layer.id().clone(),
            parents: layer.parents().to_vec(),
            left_out,
            settings,
            id: id.to_owned(),
        })
    }

    /// Makes the directory of a container, and gives it its place and its name.
    pub(super) fn put_in_place(
        &self,
        tx: &Transaction<'_>,
        mut record: Record,
        connections: &[Connection],
        name: Option<&str>,
        state: &State,
    ) -> Result<(Container, Busy)> {
        let dir = self.root().containers().join(&record.id);
        let staged = tx.staging().join("container");
        let failed = || format!("create '{}'", staged.display());
        fs::create_dir(&staged).map_err(Error::io(failed))?;
        fs::create_dir(staged.join("rootfs")).map_err(Error::io(failed))?;
        etc::check(&record.settings, &record.hostname())?;
        let volumes = self.stage_volumes(tx, &record.settings)?;
        let busy = Busy::take(&staged, record.short_id(), "being created")?;
        if state.status != Status::Created {
            state.write(&staged)?;
        }
        let lock = self.root().lock()?;
        record.name = match name {
            Some(name) => name.to_owned(),
            None => names::invent(self.root())?,
        };
        let container = Container { record, dir };
        write_record(&staged, container.record())?;
        promises::announce(self.root(), &lock, container.id(), connections)?;
        connections::write_new(&staged, connections)?;
        if container.record().settings.auto_remove {
            fs::File::create(staged.join(PASSING)).map_err(Error::io(failed))?;
        } else {
            // A container that is to stay is there after a power cut, or not: never one without a record.
            sync(&staged.join("config.json"))?;
            sync(&connections::path(&staged))?;
        }
        names::claim(self.root(), container.name(), container.id())?;
        failpoint::hit("create.named").map_err(Error::io(failed))?;
        self.place_volumes(tx, &volumes)?;
        failpoint::hit("create.volumes").map_err(Error::io(failed))?;
        let place = || format!("create '{}'", container.dir.display());
        fs::rename(&staged, &container.dir).map_err(Error::io(place))?;
        tx.keep(&container.record.layer);
        tx.keep_volumes(&container.record.settings);
        failpoint::hit("create.placed").map_err(Error::io(place))?;
        Ok((container, busy))
    }
}

/// Says why a limit cannot be kept, before anything is made.
fn refuse_limits(settings: &Settings, store: &Store) -> Result<()> {
    let able = store.driver().capabilities();
    let wanted = [
        (settings.size, &able.quota_bytes, "size"),
        (settings.inodes, &able.quota_inodes, "number of files"),
    ];
    for (limit, support, what) in wanted {
        if let (Some(_), Support::No { reason }) = (limit, support) {
            let driver = store.driver().name();
            return Err(Error::Invalid(format!(
                "storage driver '{driver}' cannot limit the {what} of a container here: {reason}"
            )));
        }
    }
    Ok(())
}

/// Completes the settings with what the image says, and refuses what could never run.
pub(super) fn settle(mut settings: Settings, image: &Image) -> Result<Settings> {
    settings.inherit(image.config());
    if settings.args().is_empty() {
        return Err(Error::Invalid("no command: the image names none, so give one".to_owned()));
    }
    settings.ulimits.iter().try_for_each(|limit| spec::rlimit(limit).map(drop))?;
    let capabilities = settings.cap_add.iter().chain(&settings.cap_drop);
    capabilities
        .filter(|name| !name.eq_ignore_ascii_case("all"))
        .try_for_each(|name| spec::capability(name).map(drop))?;
    let volumes = image.config().config().as_ref().and_then(|config| config.volumes().clone());
    for target in volumes.into_iter().flatten() {
        let is_covered = settings.mounts.iter().any(|mount| mount.target == target)
            || settings.tmpfs.iter().any(|(other, _)| *other == target);
        if !is_covered {
            let source = Source::Volume { name: volumes::invent_name()?, anonymous: true };
            settings.mounts.push(super::MountPoint { source, target, read_only: false });
        }
    }
    for mount in &settings.mounts {
        check_mount(mount)?;
    }
    Ok(settings)
}

fn check_mount(mount: &super::MountPoint) -> Result<()> {
    let target = Path::new(&mount.target);
    if !target.is_absolute() || target == Path::new("/") {
        return Err(Error::Invalid(format!(
            "invalid mount target '{}': it must be an absolute path in the container, and not '/'",
            mount.target
        )));
    }
    match &mount.source {
        Source::Volume { name, .. } => volumes::check_name(name),
        Source::Bind(path) if path.is_absolute() => Ok(()),
        Source::Bind(path) => {
            Err(Error::Invalid(format!("'{}' is not an absolute path of the host", path.display())))
        }
    }
}

fn sync(path: &Path) -> Result<()> {
    let sync = || fs::File::open(path)?.sync_all();
    sync().map_err(Error::io(|| format!("write '{}'", path.display())))
}

/// Writes a record into the directory of its container, in place of the one that was there.
pub(super) fn write_record(dir: &Path, record: &Record) -> Result<()> {
    let path = dir.join("config.json");
    let failed = || format!("write '{}'", path.display());
    let text = serde_json::to_vec(record).map_err(|e| Error::io(failed)(e.into()))?;
    let aside = dir.join("config.json.new");
    fs::write(&aside, text).and_then(|()| fs::rename(&aside, &path)).map_err(Error::io(failed))
}
