//! Tells the linker where the loader lives.

use std::path::Path;

fn main() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../linker/loader.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    // The host never links it.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = script.canonicalize().unwrap_or(script);
    for argument in [
        &format!("-T{}", script.display()),
        "--gc-sections",
        "-zmax-page-size=4096",
        "-znognustack",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
