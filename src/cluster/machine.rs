//! Who this machine is, for others to tell it from the next one: holder of the Lease under an instance's name.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// `systemd-id128 machine-id --app-specific=f0e6822d9a364f7fa6094a65c4c30bd0` prints the id of a machine.
const APPLICATION: u128 = 0xf0e6_822d_9a36_4f7f_a609_4a65_c4c3_0bd0;

const MACHINE_ID: &str = "/etc/machine-id";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The machine's id: 32 hexadecimal digits, the same as long as the machine is installed.
///
/// Derived from /etc/machine-id, which machine-id(5) says is confidential, so that the one does not tell the other. Without that file
/// (in most containers) it is the same until the next boot only, and a warning says so.
pub fn id() -> String {
    let missing = match read(Path::new(MACHINE_ID)) {
        Ok(id) => return digits(derive(id)),
        Err(missing) => missing,
    };
    tracing::warn!(
        reason = missing,
        "this machine has no id of its own; one that lasts until the next boot takes its place, and after a boot the instance's name \
         is free only when its Lease was not renewed for its whole duration (systemd-machine-id-setup makes /etc/machine-id; in a pod, \
         mount the node's)"
    );
    match read(Path::new(BOOT_ID)) {
        Ok(id) => digits(derive(id)),
        // No /proc: nothing else would work either. Whatever it is, it must not be what another machine has.
        Err(_) => digits(derive(SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos()))),
    }
}

/// An id as people can compare it.
pub fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// As sd_id128_get_machine_app_specific(3) does.
fn derive(id: u128) -> u128 {
    // A key of any length is one for HMAC.
    let mut mac = Hmac::<Sha256>::new_from_slice(&id.to_be_bytes()).expect("HMAC takes keys of every length");
    mac.update(&APPLICATION.to_be_bytes());
    let mut derived = [0; 16];
    derived.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    // A UUID of version 4.
    derived[6] = derived[6] & 0x0f | 0x40;
    derived[8] = derived[8] & 0x3f | 0x80;
    u128::from_be_bytes(derived)
}

fn digits(id: u128) -> String {
    format!("{id:032x}")
}

fn read(path: &Path) -> Result<u128, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    // `uninitialized` stands there during a first boot, nothing at all in images.
    let plain: String = text.trim().split('-').collect();
    match u128::from_str_radix(&plain, 16) {
        Ok(id) if plain.len() == 32 && !plain.starts_with('+') && id != 0 => Ok(id),
        _ => Err(format!("{} holds no id", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_what_systemd_derives_for_this_application() {
        // Printed by systemd 252 for that machine id.
        assert_eq!(digits(derive(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)), "0ec3a0722dec4144b8ee45360082eb2d");
    }

    #[test]
    fn only_a_file_with_an_id_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id");
        let read_back = |text: &str| {
            fs::write(&file, text).unwrap();
            read(&file)
        };
        assert_eq!(read_back("00112233445566778899aabbccddeeff\n"), Ok(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
        assert_eq!(read_back("00112233-4455-6677-8899-aabbccddeeff\n"), Ok(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
        for none in [
            "",
            "\n",
            "uninitialized\n",
            "00000000000000000000000000000000",
            "0011",
            "+0112233445566778899aabbccddeeff",
        ] {
            assert!(read_back(none).unwrap_err().contains("holds no id"), "{none:?}");
        }
        fs::remove_file(&file).unwrap();
        assert!(read(&file).unwrap_err().contains("No such file"));
    }

    #[test]
    fn the_boot_id_of_the_kernel_can_take_its_place() {
        assert!(read(Path::new(BOOT_ID)).is_ok());
    }

    #[test]
    fn short_ids_are_a_beginning() {
        assert_eq!((short("0123456789"), short("0123")), ("01234567", "0123"));
    }
}
