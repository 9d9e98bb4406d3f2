//! Names the packages that the build needs, before that of a dependency fails in less plain words.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "devicemapper")]
    for lacking in lacking() {
        println!("cargo::error={lacking}");
    }
}

#[cfg(feature = "devicemapper")]
fn lacking() -> Vec<String> {
    let without = "or build without device mapper by --no-default-features";
    let mut lacking = Vec::new();
    if let Err(error) = clang_sys::load() {
        lacking.push(format!("install libclang, Debian's libclang-dev, {without}: {error}"));
    }
    // The version that the dependency asks for.
    let mut probe = pkg_config::Config::new();
    if probe.atleast_version("1.02.151").cargo_metadata(false).probe("devmapper").is_err() {
        lacking.push(format!(
            "install the headers of libdevmapper 1.02.151 or newer, Debian's libdevmapper-dev and pkg-config, {without}"
        ));
    }
    lacking
}
