//! `inspect` of an image, in Docker's words.

use std::path::{Path, PathBuf};

use mica_core::{Layer, MountOptions, MountSpec};
use serde_json::{Map, Value, json};

use crate::{Engine, Image, Result, layers};

impl Engine {
    /// What there is to know of an image.
    pub fn inspect_image(&self, image: &Image) -> Result<Value> {
        let names = self.tags_of(image.id())?;
        // The config as it came has more than the OCI specification knows of, such as a health check.
        let config: Value = serde_json::from_slice(image.blob()).unwrap_or_default();
        let step = self.history(image)?.into_iter().next();
        Ok(json!({
            "Id": image.id(),
            "RepoTags": names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "RepoDigests": [],
            "Parent": "",
            "Comment": step.map(|step| step.comment).unwrap_or_default(),
            "Created": image.config().created(),
            "Author": image.config().author().clone().unwrap_or_default(),
            "Config": config["config"],
            "Architecture": image.config().architecture().to_string(),
            "Os": image.config().os().to_string(),
            "Size": self.size(image)?,
            "GraphDriver": self.image_driver(image)?,
            "RootFS": { "Type": "layers", "Layers": image.diff_ids() },
        }))
    }

    /// The driver that has the image, and what it mounts.
    fn image_driver(&self, image: &Image) -> Result<Value> {
        let Some(top) = image.top() else { return Ok(Value::Null) };
        let record = layers::record(self.root(), top)?;
        for driver in record.drivers.keys() {
            let Ok(store) = self.store(Some(driver)) else { continue };
            if let Some(layer) = layers::committed(self.root(), image.chain(), driver)? {
                let data = match read_mounts(&store, &layer)?.first() {
                    Some(spec) => mount_data(spec),
                    None => Value::Null,
                };
                return Ok(json!({ "Name": driver, "Data": data }));
            }
        }
        Ok(Value::Null)
    }
}

fn read_mounts(store: &mica_core::Store, layer: &Layer<mica_core::Committed>) -> Result<Vec<MountSpec>> {
    let hold = store.read(layer, &MountOptions::default())?;
    let specs = hold.mounts().specs.clone();
    hold.release()?;
    Ok(specs)
}

/// What a mount is made of, as `GraphDriver.Data` names it: directories joined by colons, the topmost first.
pub fn mount_data(spec: &MountSpec) -> Value {
    let mut data = Map::new();
    let mut put = |name: &str, path: &Path| data.insert(name.to_owned(), path.display().to_string().into());
    match spec {
        MountSpec::Overlay(overlay) => {
            if let Some(upper) = &overlay.upper {
                put("UpperDir", &upper.dir);
                put("WorkDir", &upper.work);
            }
            let joined =
                overlay.lowers.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":");
            put("LowerDir", &PathBuf::from(joined));
        }
        MountSpec::Bind(bind) => {
            put("UpperDir", &bind.source);
        }
        MountSpec::Fs(fs) => {
            put("Source", &fs.source);
        }
        _ => return Value::Null,
    }
    Value::Object(data)
}
