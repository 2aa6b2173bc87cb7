//! What a machine boots, put together as the command line says: the same for `run`, `image` and `boot`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli::PayloadArgs;
use crate::exit::usage;
use crate::image::{self, Built, Guest, Variant, Wanted};
use crate::machine::BootArgs;
use crate::progress::Progress;
use crate::setup::{debian, rust};

/// What a machine boots.
#[derive(Debug)]
pub struct Payload {
    /// The ELF files. The kernel's is the user's own, if they have one.
    pub built: Built,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The root file system and the program.
    pub guest: Guest,
    /// The folder that became the root file system, if one did.
    pub root: Option<PathBuf>,
}

impl Payload {
    /// Builds it. `folder` is for files that are of use only as long as the machine is.
    pub fn build(args: &PayloadArgs, folder: &Path, progress: &Progress) -> Result<Self> {
        let (built, kernel) = match &args.kernel {
            Some(kernel) => {
                let toolchain = rust::prepare(progress)?;
                let programs = image::build_programs(&toolchain, progress)?;
                let image = image::foreign_kernel(kernel, folder)?;
                (
                    Built {
                        kernel: kernel.clone(),
                        programs,
                    },
                    image,
                )
            }
            None => {
                let variant = match args.checks {
                    true => Variant::Checks,
                    false => Variant::Plain,
                };
                let built = image::build_if_changed(variant, progress)?;
                let image = image::kernel_image(&built.kernel, variant)?;
                (built, image)
            }
        };
        let packages = match args.packages.as_slice() {
            [] => None,
            packages => Some(debian::root(packages, progress)?),
        };
        let root = args.root.clone().or(packages);
        let wanted = Wanted {
            root: root.as_deref(),
            files: &args.files,
            environment: &args.environment,
            program: &args.program,
        };
        let guest = Guest::new(wanted, &built, progress)?;
        Ok(Self {
            built,
            kernel,
            guest,
            root,
        })
    }
}

/// Adds the kernel's own boot arguments to those that the caller has.
pub fn boot_arguments(args: &PayloadArgs, seed: Option<u64>, boot: &mut BootArgs) -> Result<()> {
    if let Some(level) = args.trace {
        boot.set("trace", level.as_str())?;
    }
    if args.lossless {
        boot.flag("lossless");
    }
    if let Some(ring) = args.ring {
        if ring == 0 {
            return Err(usage("--ring 0: a ring holds at least one event"));
        }
        boot.set("ring", ring)?;
    }
    if let Some(mode) = args.fork {
        boot.set("fork", mode.as_str())?;
    }
    if args.amplification {
        boot.flag("amplification");
    }
    if let Some(bits) = args.asid_bits {
        boot.set("asid_bits", bits)?;
    }
    if let Some(seed) = seed {
        boot.set("seed", seed)?;
    }
    for words in &args.append {
        boot.raw(words)?;
    }
    Ok(())
}
