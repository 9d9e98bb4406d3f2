//! The network contract, checked case by case.

fn main() -> std::process::ExitCode {
    mica_conformance::network::harness::main(&hello_network::NETWORK)
}
