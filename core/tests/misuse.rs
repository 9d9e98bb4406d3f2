//! Misuse of a layer's state does not compile. Each file of `compile-fail` breaks one rule of the contract.

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile-fail/*.rs");
}
