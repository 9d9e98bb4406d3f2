//! Compiled filters, kept as files.
//!
//! A file is `magic, flags, instructions (8 bytes each), SHA-256 of all before`, little-endian, and its name tells the
//! profile. Nothing of it is believed: a file that is not whole, not ours or not a program is compiled anew. It is
//! not synced either: what a power cut leaves of it does not have its checksum.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest, Sha256};

use super::bpf::{AND, EQUAL, GREATER, GREATER_OR_EQUAL, Instruction, LOAD, RETURN, SKIP};
use super::{MAX_INSTRUCTIONS, Program, Result, compile};

/// The form of a file and of the programs in it: a change of the table of calls or of the assembler changes the
/// number too.
const MAGIC: &[u8; 8] = b"micabpf1";
const HEADER: usize = MAGIC.len() + 4;
const INSTRUCTION: usize = 8;
const DIGEST: usize = 32;

/// [`compile`], once for each profile: the program is kept in a file in `dir`, which must exist and belong to the
/// caller. The cache saves time and nothing else, so whatever is wrong with it (a full disk, a damaged file, a file
/// that others may write) costs the time to compile and is no error.
pub fn cached(profile: &LinuxSeccomp, dir: &Path) -> Result<Program> {
    let Ok(key) = serde_json::to_vec(profile) else { return compile(profile) };
    let mut hash = Sha256::new();
    hash.update(MAGIC);
    hash.update(std::env::consts::ARCH);
    hash.update(&key);
    let path = dir.join(format!("{}.bpf", hex(&hash.finalize())));
    if let Some(program) = load(&path) {
        return Ok(program);
    }
    let program = compile(profile)?;
    // A program that is not stored is compiled again next time.
    let _ = store(&program, dir, &path);
    Ok(program)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The program at `path`, if it is whole and nobody else can have written it.
fn load(path: &Path) -> Option<Program> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let meta = file.metadata().ok()?;
    let largest = HEADER + MAX_INSTRUCTIONS * INSTRUCTION + DIGEST;
    let ours = meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0;
    if !meta.is_file() || !ours || meta.len() > largest as u64 {
        return None;
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(largest as u64).read_to_end(&mut bytes).ok()?;
    decode(&bytes)
}

/// Writes `program` beside `path`, then puts it in place, so that a reader sees all of it or nothing.
fn store(program: &Program, dir: &Path, path: &Path) -> io::Result<()> {
    let temporary = dir.join(format!(".seccomp-{}-{:?}", std::process::id(), std::thread::current().id()));
    let write = |file: io::Result<File>| file?.write_all(&encode(program));
    write(OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary))
        .and_then(|()| std::fs::rename(&temporary, path))
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

fn encode(program: &Program) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(program.flags.to_le_bytes());
    for Instruction { code, jt, jf, k } in &program.instructions {
        bytes.extend(code.to_le_bytes());
        bytes.extend([*jt, *jf]);
        bytes.extend(k.to_le_bytes());
    }
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Program> {
    let (content, digest) = bytes.split_last_chunk::<DIGEST>()?;
    if Sha256::digest(content)[..] != digest[..] {
        return None;
    }
    let (flags, code) = content.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let (code, []) = code.as_chunks::<INSTRUCTION>() else { return None };
    let instructions: Vec<Instruction> = code
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| Instruction {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        })
        .collect();
    is_program(&instructions).then(|| Program { instructions, flags: u32::from_le_bytes(*flags) })
}

/// Whether these are instructions that [`compile`] writes, none jumping out, the last one returning.
fn is_program(instructions: &[Instruction]) -> bool {
    let count = instructions.len();
    let ends = instructions.last().is_some_and(|last| last.code == RETURN);
    ends && count <= MAX_INSTRUCTIONS
        && instructions.iter().enumerate().all(|(at, Instruction { code, jt, jf, k })| match *code {
            LOAD => *k < 64 && k % 4 == 0,
            EQUAL | GREATER | GREATER_OR_EQUAL => at + 1 + usize::from(*jt.max(jf)) < count,
            SKIP => (*k as usize) < count - at - 1,
            AND | RETURN => true,
            _ => false,
        })
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use oci_spec::runtime::Capabilities;

    use super::super::{compile, default_profile};
    use super::{Digest, Sha256, encode, hex};

    #[test]
    fn programs_change_together_with_the_magic_number() {
        let program = compile(&default_profile(&Capabilities::new(), (6, 1))).unwrap();
        let digest = hex(&Sha256::digest(encode(&program))[..8]);
        // Programs of before are in caches. When this fails, count MAGIC up, and only then put the new digest here.
        assert_eq!(digest, "84db5950824cca5a");
    }
}
