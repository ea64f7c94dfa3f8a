//! A credential that is renewed while a client is in use.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use kube::config::{AuthInfo, ExecConfig};
use tokio::time::Instant;

use super::ConnectError;
use super::plugin;
use super::token::{Bearer, TokenFile};

/// A plugin is asked again so long before what it gave expires, or when a fifth of its time is left.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);
/// It is not asked more often, whatever it answers.
const LEAST_PAUSE: Duration = Duration::from_secs(10);

/// How a session's credential is renewed.
pub(super) enum Renewal {
    /// It is in the client, and stays as it is.
    Never,
    /// The file is read again.
    File(TokenFile),
    Plugin(Box<Plugin>),
}

pub(super) struct Plugin {
    exec: ExecConfig,
    bearer: Option<Bearer>,
    /// A certificate belongs to its connections: another one needs another client.
    has_identity: bool,
    again: Option<Instant>,
}

/// What became of a renewal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// Nothing was due, or it is the same as before.
    No,
    Yes,
    /// Another client is needed.
    NeedsClient,
}

impl Renewal {
    /// Gets what the client is to start with, and takes out of `user` what it would renew by itself. In the order of the client: a
    /// plugin comes last.
    pub async fn begin(user: &mut AuthInfo, token_file: Option<PathBuf>, server: &str) -> Result<Self, ConnectError> {
        if let Some(command) = user.auth_provider.as_ref().and_then(|provider| provider.config.get("cmd-path")) {
            return Err(ConnectError::Provider { server: server.to_owned(), command: command.clone() });
        }
        let exec = user.exec.take();
        if let Some(file) = token_file {
            let token = TokenFile::open(file.clone()).map_err(|source| ConnectError::TokenFile { file, source })?;
            return Ok(Renewal::File(token));
        }
        let named = user.auth_provider.is_some() || user.username.is_some() || user.token.is_some();
        let Some(exec) = exec.filter(|_| !named) else { return Ok(Renewal::Never) };
        let failed = |source| ConnectError::Plugin { server: server.to_owned(), source };
        let given = plugin::ask(&exec).await.map_err(failed)?;
        let mut bearer = None;
        if let Some(token) = &given.token {
            bearer = Some(Bearer::new(token).map_err(|_| failed(plugin::PluginError::Token))?);
        }
        if let Some((certificate, key)) = &given.identity {
            user.client_certificate_data = Some(STANDARD.encode(certificate));
            user.client_key_data = Some(STANDARD.encode(key).into());
        }
        let again = again(given.expires);
        Ok(Renewal::Plugin(Box::new(Plugin { exec, bearer, has_identity: given.identity.is_some(), again })))
    }

    /// What signs requests, if it is not the client itself.
    pub fn bearer(&self) -> Option<&Bearer> {
        match self {
            Renewal::Never => None,
            Renewal::File(file) => Some(&file.bearer),
            Renewal::Plugin(plugin) => plugin.bearer.as_ref(),
        }
    }

    /// Renews what is due.
    pub async fn look(&mut self, server: &str) -> Result<Renewed, ConnectError> {
        match self {
            Renewal::Never => Ok(Renewed::No),
            Renewal::File(file) => Ok(if file.refresh() { Renewed::Yes } else { Renewed::No }),
            Renewal::Plugin(plugin) => plugin.look(server).await,
        }
    }
}

impl Plugin {
    async fn look(&mut self, server: &str) -> Result<Renewed, ConnectError> {
        if self.again.is_none_or(|at| at > Instant::now()) {
            return Ok(Renewed::No);
        }
        let Some(bearer) = self.bearer.as_ref().filter(|_| !self.has_identity) else { return Ok(Renewed::NeedsClient) };
        let failed = |source| ConnectError::Plugin { server: server.to_owned(), source };
        let given = plugin::ask(&self.exec).await.map_err(failed)?;
        let Some(token) = given.token.filter(|_| given.identity.is_none()) else { return Ok(Renewed::NeedsClient) };
        self.again = again(given.expires);
        Ok(if bearer.replace(&token) { Renewed::Yes } else { Renewed::No })
    }
}

/// When a plugin is to be asked again.
fn again(expires: Option<Timestamp>) -> Option<Instant> {
    let left = expires?.duration_since(Timestamp::now());
    let pause = (left - MARGIN.min(left / 5)).max(SignedDuration::ZERO);
    Some(Instant::now() + pause.unsigned_abs().max(LEAST_PAUSE))
}
