//! A token in a file, which somebody else rotates.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderValue;
use http::header::AUTHORIZATION;
use kube::client::Body;

/// Sent with every request as it was last read. Unlike the client's own token file it may end with a line feed, as kubectl writes it, and is
/// in force as soon as [`TokenFile::refresh`] has seen it.
#[derive(Clone)]
pub(super) struct TokenFile {
    path: PathBuf,
    header: Arc<RwLock<HeaderValue>>,
}

impl TokenFile {
    pub fn open(path: PathBuf) -> Result<Self, io::Error> {
        let header = header(&read(&path)?)?;
        Ok(TokenFile { path, header: Arc::new(RwLock::new(header)) })
    }

    /// Whether the token is another now. A file that cannot be read, or is being written, leaves the last one in force.
    pub fn refresh(&self) -> bool {
        let Ok(new) = read(&self.path).and_then(|text| header(&text)) else { return false };
        let mut held = self.header.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *held != new;
        *held = new;
        changed
    }

    pub fn sign(&self, mut request: http::Request<Body>) -> http::Request<Body> {
        let header = self.header.read().unwrap_or_else(PoisonError::into_inner).clone();
        request.headers_mut().insert(AUTHORIZATION, header);
        request
    }
}

pub(super) fn read(path: &Path) -> Result<String, io::Error> {
    let text = std::fs::read_to_string(path)?.trim().to_owned();
    if text.is_empty() { Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")) } else { Ok(text) }
}

fn header(token: &str) -> Result<HeaderValue, io::Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it holds no token"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_end_with_a_line_and_is_replaced_but_never_by_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n").unwrap();
        let token = TokenFile::open(file.path().to_owned()).unwrap();
        let sent =
            || token.sign(http::Request::new(Body::empty())).headers()[AUTHORIZATION].to_str().unwrap().to_owned();
        assert_eq!(sent(), "Bearer one");
        assert!(!token.refresh());
        std::fs::write(file.path(), "two").unwrap();
        assert!(token.refresh());
        assert_eq!(sent(), "Bearer two");
        std::fs::write(file.path(), "").unwrap();
        assert!(!token.refresh());
        assert_eq!(sent(), "Bearer two");
    }
}
