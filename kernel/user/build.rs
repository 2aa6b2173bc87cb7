//! Links the programs with `linker/user.ld`.

use std::env;

fn main() {
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("{here}/../../linker/user.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=build.rs");
    for argument in [
        &format!("-T{script}"),
        "--build-id=sha1",
        "-zmax-page-size=4096",
        "-znoexecstack",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
