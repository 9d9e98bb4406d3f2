//! Extended attributes, of all namespaces, as they are on the branch.
//!
//! ACLs are among them (`system.posix_acl_access`, `system.posix_acl_default`): the file system of the branch derives the
//! mode from the first, and the kernel checks permissions by what it reads here.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use fuse_backend_rs::api::filesystem::{Context, GetxattrReply, ListxattrReply};
use rustix::fs::{self, Mode, XattrFlags};
use rustix::io::Errno;

use super::node::Node;
use super::reach::proc_path;
use super::{Result, Union, lock};

/// The longest value, and the longest list of names (xattr(7)).
const LONGEST: usize = 1 << 16;
const ACL: &[u8] = b"system.posix_acl_";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const CAPABILITY: &[u8] = b"security.capability";

impl Union {
    /// The value of an attribute, or how long it is if `size` is 0.
    pub(crate) fn get_attribute(&self, node: &Arc<Node>, name: &CStr, size: u32) -> Result<GetxattrReply> {
        if name.to_bytes() == CAPABILITY && node.content().is_ok_and(|content| lock(content).bare) {
            return Err(Errno::NODATA);
        }
        let (file, _) = self.open_path(&self.shown(node)?)?;
        let path = proc_path(file.as_fd());
        let mut value = Vec::with_capacity(usize::min(size as usize, LONGEST));
        let got = match size {
            0 => fs::getxattr_query(&path, name),
            _ => fs::getxattr(&path, name, rustix::buffer::spare_capacity(&mut value)),
        };
        match got {
            Ok(length) if size == 0 => Ok(GetxattrReply::Count(u32::try_from(length).unwrap_or(u32::MAX))),
            Ok(_) => Ok(GetxattrReply::Value(value)),
            // Where a file system has no ACLs no file has one. Taken for an error, it would deny access.
            Err(Errno::OPNOTSUPP) if name.to_bytes().starts_with(ACL) => Err(Errno::NODATA),
            Err(errno) => Err(errno),
        }
    }

    /// The names of all attributes, each with a zero byte behind it, or how long they are together if `size` is 0.
    pub(crate) fn list_attributes(
        &self,
        caller: &Context,
        node: &Arc<Node>,
        size: u32,
    ) -> Result<ListxattrReply> {
        let (file, _) = self.open_path(&self.shown(node)?)?;
        let mut names = Vec::with_capacity(LONGEST);
        match fs::listxattr(proc_path(file.as_fd()), rustix::buffer::spare_capacity(&mut names)) {
            Ok(_) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
        // Others do not see the names that only an administrator can read (xattr(7)).
        if caller.uid != 0 {
            names = names
                .split_inclusive(|&byte| byte == 0)
                .filter(|name| !name.starts_with(b"trusted."))
                .flatten()
                .copied()
                .collect();
        }
        match size {
            0 => Ok(ListxattrReply::Count(u32::try_from(names.len()).unwrap_or(u32::MAX))),
            _ if names.len() > size as usize => Err(Errno::RANGE),
            _ => Ok(ListxattrReply::Names(names)),
        }
    }

    /// Sets an attribute, after the file was copied up.
    pub(crate) fn set_attribute(
        &self,
        caller: &Context,
        node: &Arc<Node>,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if !flags.is_empty() {
            match self.has_attribute(node, name)? {
                true if flags.contains(XattrFlags::CREATE) => return Err(Errno::EXIST),
                false if flags.contains(XattrFlags::REPLACE) => return Err(Errno::NODATA),
                _ => {}
            }
        }
        let file = self.pin_writable(node)?;
        if name.to_bytes() == CAPABILITY
            && let Ok(content) = node.content()
        {
            lock(content).bare = false;
        }
        fs::setxattr(proc_path(file.as_fd()), name, value, flags)?;
        if name.to_bytes() == ACCESS_ACL { keep_setgid_from(caller, file.as_fd()) } else { Ok(()) }
    }

    /// Removes an attribute, after the file was copied up if it has that attribute.
    pub(crate) fn remove_attribute(&self, node: &Arc<Node>, name: &CStr) -> Result<()> {
        if !self.has_attribute(node, name)? {
            return Err(Errno::NODATA);
        }
        let file = self.pin_writable(node)?;
        fs::removexattr(proc_path(file.as_fd()), name)
    }

    fn has_attribute(&self, node: &Arc<Node>, name: &CStr) -> Result<bool> {
        let (file, _) = self.open_path(&self.shown(node)?)?;
        match fs::getxattr(proc_path(file.as_fd()), name, &mut [0_u8; 1][..]) {
            Ok(_) | Err(Errno::RANGE) => Ok(true),
            Err(Errno::NODATA) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// Takes setgid from a file, the mode of which was just set by an ACL, if whoever did that is not of its group: as chmod(2)
/// does, and the file system does not as it is we who set it.
fn keep_setgid_from(caller: &Context, file: BorrowedFd<'_>) -> Result<()> {
    let stat = fs::fstat(file)?;
    let is_member = caller.uid == 0 || caller.gid == stat.st_gid || has_group(caller.pid, stat.st_gid);
    if stat.st_mode & libc::S_ISGID == 0 || is_member {
        return Ok(());
    }
    fs::chmod(proc_path(file), Mode::from_raw_mode(stat.st_mode & !libc::S_ISGID))
}

/// Whether a group is among the supplementary ones of a process. Of one that is not to be seen, it is not.
fn has_group(process: i32, group: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_ascii_whitespace().any(|word| word.parse() == Ok(group))
}
