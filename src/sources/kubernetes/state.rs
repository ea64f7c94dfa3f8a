use kube::runtime::watcher;

use super::watches::{Resource, Trouble};
use crate::sources::SourceState;

/// How the three watches are, and what was told of it.
#[derive(Debug, Default)]
pub(super) struct States {
    watches: [Watch; Resource::ALL.len()],
    /// There was a session. Until then whoever makes it tells why there is none.
    begun: bool,
    told: Option<SourceState>,
}

#[derive(Debug, Clone, Default)]
enum Watch {
    #[default]
    Beginning,
    Watching,
    Failed(Trouble),
}

impl States {
    /// There is a session, the first or a new one. What failed before has failed until it works.
    pub fn begin(&mut self) {
        self.begun = true;
    }

    pub fn watching(&mut self, resource: Resource) {
        self.watches[resource as usize] = Watch::Watching;
    }

    pub fn failed(&mut self, resource: Resource, error: &watcher::Error, server: &str) {
        self.watches[resource as usize] = Watch::Failed(Trouble::of(resource, error, server));
    }

    /// The state, if it is another than was told last.
    pub fn news(&mut self) -> Option<SourceState> {
        let now = self.now();
        if !self.begun || self.told.as_ref() == Some(&now) {
            return None;
        }
        match (&now, &self.told) {
            (SourceState::Away { reason }, _) => {
                tracing::warn!(reason, "the Kubernetes API is away; going on with what is known of it");
            }
            (SourceState::Current, Some(SourceState::Away { .. })) => tracing::info!("the Kubernetes API is back"),
            _ => {}
        }
        self.told = Some(now.clone());
        Some(now)
    }

    fn now(&self) -> SourceState {
        let troubles: Vec<&Trouble> =
            self.watches.iter().filter_map(|w| if let Watch::Failed(t) = w { Some(t) } else { None }).collect();
        if !troubles.is_empty() {
            return SourceState::Away { reason: together(&troubles) };
        }
        let watching = self.watches.iter().all(|w| matches!(w, Watch::Watching));
        if watching { SourceState::Current } else { SourceState::Syncing }
    }
}

/// What is the same for all three is said once.
fn together(troubles: &[&Trouble]) -> String {
    let mut said: Vec<&str> = Vec::new();
    for part in troubles.iter().map(|t| t.what.as_str()).chain(troubles.iter().map(|t| t.remedy)) {
        if !part.is_empty() && !said.contains(&part) {
            said.push(part);
        }
    }
    said.join("; ")
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    const SERVER: &str = "https://10.0.0.1:6443";

    fn refused(code: u16, message: &str) -> watcher::Error {
        watcher::Error::WatchError(Status { code, message: message.to_owned(), ..Status::default() }.boxed())
    }

    fn watching() -> States {
        let mut states = States::default();
        assert_eq!(states.news(), None, "who makes the session speaks first");
        states.begin();
        assert_eq!(states.news(), Some(SourceState::Syncing));
        Resource::ALL.into_iter().for_each(|r| states.watching(r));
        assert_eq!(states.news(), Some(SourceState::Current));
        assert_eq!(states.news(), None);
        states
    }

    #[test]
    fn it_is_away_until_every_watch_works_again_and_says_once_what_is_the_same() {
        let mut states = watching();
        let error = refused(401, "Unauthorized");
        Resource::ALL.into_iter().for_each(|r| states.failed(r, &error, SERVER));
        let Some(SourceState::Away { reason }) = states.news() else { panic!("it is away") };
        assert_eq!(reason.matches("401").count(), 1, "{reason}");
        states.watching(Resource::Mappings);
        states.watching(Resource::Slices);
        assert_eq!(states.news(), None, "services are still refused");
        states.watching(Resource::Services);
        assert_eq!(states.news(), Some(SourceState::Current));
    }

    #[test]
    fn rights_are_named_each_with_one_remedy_and_a_missing_definition_with_its_own() {
        let mut states = watching();
        states.failed(Resource::Services, &refused(403, "User \"u\" cannot list resource \"services\""), SERVER);
        states.failed(Resource::Slices, &refused(403, "User \"u\" cannot watch resource \"endpointslices\""), SERVER);
        let Some(SourceState::Away { reason }) = states.news() else { panic!("it is away") };
        assert!(reason.contains("cannot list resource") && reason.contains("cannot watch resource"), "{reason}");
        assert_eq!(reason.matches("deploy/rbac.yaml").count(), 1, "{reason}");
        states.failed(Resource::Mappings, &refused(404, "page not found"), SERVER);
        let Some(SourceState::Away { reason }) = states.news() else { panic!("it is away") };
        assert!(reason.contains("CustomResourceDefinition is not installed"), "{reason}");
        assert!(reason.contains("kubectl apply -k deploy/"), "{reason}");
    }
}
