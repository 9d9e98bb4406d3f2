use super::*;
use crate::container::ConnectWish;

const WEB: NetworkId = NetworkId::from_bytes([1; 16]);

fn at(address: &str) -> Connection {
    let addresses = address.parse().into_iter().collect();
    let wish = ConnectWish { addresses, ..ConnectWish::default() };
    Connection { network: WEB, name: "web".to_owned(), wish }
}

fn root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

fn place(root: &Root, container: &str, connection: &Connection) {
    let dir = root.containers().join(container);
    make_directory(&dir).unwrap();
    fs::write(connections::path(&dir), serde_json::to_vec(&[connection]).unwrap()).unwrap();
}

fn create(root: &Root, container: &str, connection: &Connection) {
    let lock = root.lock().unwrap();
    announce(root, &lock, container, std::slice::from_ref(connection)).unwrap();
    place(root, container, connection);
}

fn told(root: &Root) -> Vec<String> {
    promised(root, &WEB).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn containers_without_a_fixed_address_cost_a_lease_nothing() {
    let (_dir, root) = root();
    create(&root, "fixed", &at("10.0.0.9"));
    create(&root, "any", &at(""));
    assert_eq!(told(&root), ["10.0.0.9"]);
    assert_eq!(root::names(&root.promised().join(WEB.to_string())).unwrap(), ["fixed"]);
    // Not read: what is in its file would be heard of.
    place(&root, "any", &at("10.0.0.8"));
    assert_eq!(told(&root), ["10.0.0.9"]);
    assert!(promised(&root, &NetworkId::from_bytes([2; 16])).unwrap().is_empty());
}

#[test]
fn a_root_that_was_never_looked_at_is_looked_at_once() {
    let (_dir, root) = root();
    place(&root, "old", &at("10.0.0.9"));
    make_directory(&root.promised().with_extension("new").join("half of a crashed one")).unwrap();
    assert_eq!(told(&root), ["10.0.0.9"]);
    place(&root, "other", &at("10.0.0.8"));
    assert_eq!(told(&root), ["10.0.0.9"]);
    fs::remove_dir_all(root.promised()).unwrap();
    create(&root, "new", &at("10.0.0.7"));
    assert_eq!(told(&root), ["10.0.0.7", "10.0.0.8", "10.0.0.9"]);
}

#[test]
fn what_is_promised_no_more_is_forgotten() {
    let (_dir, root) = root();
    create(&root, "removed", &at("10.0.0.7"));
    create(&root, "disconnected", &at("10.0.0.8"));
    create(&root, "damaged", &at("10.0.0.9"));
    fs::remove_dir_all(root.containers().join("removed")).unwrap();
    place(&root, "disconnected", &at(""));
    let damaged = connections::path(&root.containers().join("damaged"));
    fs::write(&damaged, "[").unwrap();
    assert!(told(&root).is_empty());
    assert_eq!(root::names(&root.promised().join(WEB.to_string())).unwrap(), ["damaged"]);
    place(&root, "damaged", &at("10.0.0.9"));
    assert_eq!(told(&root), ["10.0.0.9"]);
}

#[test]
fn a_lease_waits_for_the_container_that_is_being_made() {
    let (_dir, root) = root();
    let lock = root.lock().unwrap();
    announce(&root, &lock, "new", &[at("10.0.0.9")]).unwrap();
    std::thread::scope(|scope| {
        let leasing = scope.spawn(|| promised(&root, &WEB).unwrap());
        place(&root, "new", &at("10.0.0.9"));
        drop(lock);
        leasing.join().unwrap();
    });
    assert_eq!(told(&root), ["10.0.0.9"]);
}
