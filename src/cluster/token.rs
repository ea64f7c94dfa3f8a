//! A token that changes while a client is in use: in a file that somebody else rotates, or of a plugin.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderValue;
use http::header::AUTHORIZATION;
use kube::client::Body;

/// A token that is sent with every request, and may be replaced meanwhile.
#[derive(Clone)]
pub(super) struct Bearer(Arc<RwLock<HeaderValue>>);

impl Bearer {
    pub fn new(token: &str) -> Result<Self, io::Error> {
        Ok(Bearer(Arc::new(RwLock::new(header(token)?))))
    }

    /// Whether the token is another now. What is no token leaves the last one in force.
    pub fn replace(&self, token: &str) -> bool {
        let Ok(new) = header(token) else { return false };
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *held != new;
        *held = new;
        changed
    }

    pub fn sign(&self, mut request: http::Request<Body>) -> http::Request<Body> {
        let header = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        request.headers_mut().insert(AUTHORIZATION, header);
        request
    }
}

/// Sent with every request as it was last read. Unlike the client's own token file it may end with a line feed, as kubectl writes it, and is
/// in force as soon as [`TokenFile::refresh`] has seen it.
#[derive(Clone)]
pub(super) struct TokenFile {
    path: PathBuf,
    pub bearer: Bearer,
}

impl TokenFile {
    pub fn open(path: PathBuf) -> Result<Self, io::Error> {
        let bearer = Bearer::new(&read(&path)?)?;
        Ok(TokenFile { path, bearer })
    }

    /// Whether the token is another now. A file that cannot be read, or is being written, leaves the last one in force.
    pub fn refresh(&self) -> bool {
        read(&self.path).is_ok_and(|text| self.bearer.replace(&text))
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
        let sent = || {
            token.bearer.sign(http::Request::new(Body::empty())).headers()[AUTHORIZATION].to_str().unwrap().to_owned()
        };
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
