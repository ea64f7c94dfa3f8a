use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// What a server says first: who it is, whom it saw, and at which address of its own. One line: `pod1 saw 192.0.2.10:4711 at
/// 10.244.1.2:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub name: String,
    pub saw: SocketAddr,
    pub at: SocketAddr,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} saw {} at {}", self.name, self.saw, self.at)
    }
}

impl FromStr for Answer {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("{s:?} is no answer of a peer (NAME saw ADDRESS:PORT at ADDRESS:PORT)");
        let [name, "saw", saw, "at", at] = s.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(wrong());
        };
        Ok(Answer {
            name: name.to_owned(),
            saw: saw.parse().map_err(|_| wrong())?,
            at: at.parse().map_err(|_| wrong())?,
        })
    }
}
