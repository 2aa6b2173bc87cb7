//! Where the links of /proc lead.

use super::list::Name;
use super::process::has_ended;
use super::{Item, Place, find as find_process, own_pid};
use crate::fs::tree::{self, Target};
use crate::syscall::errno::Errno;

/// Where a link leads. The tree is locked.
pub fn target(item: Item) -> Result<Target, Errno> {
    Ok(match item {
        Item::Own => Target::Path(tree::copy(Name::new(own_pid()).as_bytes())?),
        Item::OwnThread => {
            let tid = crate::process::thread::current().tid();
            let name = Name::new(format_args!("{}/task/{tid}", own_pid()));
            Target::Path(tree::copy(name.as_bytes())?)
        }
        Item::Place(pid, place) => {
            let process = find_process(pid)?;
            if has_ended(&process) {
                return Err(Errno::ENOENT);
            }
            let state = process.state.lock();
            Target::Entry(match place {
                Place::Program => {
                    let program = state.program.as_ref().ok_or(Errno::ENOENT)?;
                    program.entry().clone()
                }
                Place::Directory => state.directory.clone(),
                Place::Root => state.root.clone(),
            })
        }
        Item::Descriptor(pid, fd) => {
            let process = find_process(pid)?;
            let file = process.files.lock().get(fd.into());
            Target::Entry(file.map_err(|_| Errno::ENOENT)?.entry.clone())
        }
        _ => return Err(Errno::EINVAL),
    })
}
