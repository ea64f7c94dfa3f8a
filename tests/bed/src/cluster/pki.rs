use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority with its key, made by openssl, and what it signs.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

impl Authority {
    #[track_caller]
    pub fn create(dir: &Path) -> Authority {
        let authority = Authority { dir: dir.to_owned() };
        let Credential { certificate, key } = authority.credential();
        let mut command = openssl(&["req", "-x509"]);
        command.args(KEY).args(["-subj", "/CN=bed-ca", "-days", "365"]);
        command.args(["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]);
        run(command.arg("-out").arg(&certificate).arg("-keyout").arg(&key));
        authority
    }

    /// Its own certificate and key.
    pub fn credential(&self) -> Credential {
        self.files("ca")
    }

    fn files(&self, name: &str) -> Credential {
        Credential { certificate: self.dir.join(format!("{name}.crt")), key: self.dir.join(format!("{name}.key")) }
    }

    /// A key and a certificate for a year: `subject` as openssl writes it (`/O=group/CN=user`), `extensions` such as
    /// `subjectAltName=IP:10.0.0.1`.
    #[track_caller]
    pub fn issue(&self, name: &str, subject: &str, extensions: &[&str]) -> Credential {
        let (ca, issued) = (self.credential(), self.files(name));
        let mut command = openssl(&["req", "-x509", "-days", "365", "-subj", subject]);
        command.args(KEY).arg("-CA").arg(&ca.certificate).arg("-CAkey").arg(&ca.key);
        for extension in ["basicConstraints=critical,CA:FALSE"].iter().chain(extensions) {
            command.args(["-addext", extension]);
        }
        run(command.arg("-out").arg(&issued.certificate).arg("-keyout").arg(&issued.key));
        issued
    }

    /// A private key alone, in the only form of elliptic keys that the API server reads.
    #[track_caller]
    pub fn signing_key(&self, name: &str) -> PathBuf {
        let path = self.files(name).key;
        run(openssl(&["ecparam", "-genkey", "-noout", "-name", "prime256v1"]).arg("-out").arg(&path));
        path
    }
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("cannot run openssl: {e}; install it: apt-get install -y openssl"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
}
