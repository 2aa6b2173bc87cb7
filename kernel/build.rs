//! Tells the linker where the image lives.

use std::path::Path;

fn main() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../linker/kernel.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    // The host never links the image.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = script.canonicalize().unwrap_or(script);
    for argument in [
        &format!("-T{}", script.display()),
        // defmt's build script has put `defmt.x` on the search path.
        "-Tdefmt.x",
        // The host tools match a trace with the ELF file it was made by.
        "--build-id=sha1",
        "--gc-sections",
        "-zmax-page-size=4096",
        "-znognustack",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
