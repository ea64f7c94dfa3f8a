//! Which generation of nf_tables is whose. Who read the tables at one generation asks here whether they are as they
//! were.
//!
//! Only a chain of notices without a gap proves anything. To ask for the number after a write does not: it may be
//! somebody else's already.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::filter;
use super::notice::{Generation, Key, Notice, Place};
use crate::netlink;
use crate::ruleset::Builtin;

/// Notices are there within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shared by who listens, who writes and who reads.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was heard.
    heard: Notify,
    /// The command name of our writers, where process ids tell nothing.
    name: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct State {
    /// The listening socket.
    socket: Option<OwnedFd>,
    /// From this generation on nothing was missed. `None`: not known.
    since: Option<u32>,
    /// The last generation that was heard of.
    heard: Option<u32>,
    /// What others last changed in which generation, as far as it may concern us.
    tables: BTreeMap<Key, u32>,
    builtins: BTreeMap<(Key, Builtin), u32>,
    /// Notices whose generation is yet to come.
    pending: Vec<Place>,
    calls: Vec<Call>,
    started: u64,
}

/// A writer of ours: everything behind the generation that was there when it had just been started, up to the one that
/// was there when it had ended, is its own where the kernel names it. A process id that is used again proves nothing.
#[derive(Debug)]
struct Call {
    id: u64,
    pid: u32,
    /// The port that its socket will have, if no other has it. What that port tells is dropped by the kernel.
    port: Option<u32>,
    begun: Option<u32>,
    ended: Option<u32>,
}

/// What others did since a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    Nothing,
    /// The order of built-in chains.
    Builtins(BTreeSet<Builtin>),
    /// Something in the table that may concern any chain of ours.
    Table,
    /// Nobody knows.
    Unknown,
}

/// A call of ours as long as it runs.
#[derive(Debug)]
pub struct OwnCall {
    ledger: Ledger,
    id: u64,
}

impl Drop for OwnCall {
    fn drop(&mut self) {
        self.ledger.end(self.id);
    }
}

impl Ledger {
    /// For writers that have a name which nobody else has: in a pid namespace (see `apply::alias`).
    pub fn of_writers_named(name: &str) -> Self {
        Ledger(Arc::new(Shared { name: Some(name.into()), ..Shared::default() }))
    }

    /// The name of our writers, where process ids tell nothing.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    pub fn is_listening(&self) -> bool {
        self.state().socket.is_some()
    }

    /// A tool of ours was started that will write. Before it is told what.
    pub fn begin(&self, pid: u32) -> Option<OwnCall> {
        self.enter(pid, Some(pid))
    }

    /// The kernel names the thread that writes by netlink, not its process.
    pub fn begin_in_this_thread(&self) -> Option<OwnCall> {
        let link = std::fs::read_link("/proc/thread-self").ok()?;
        self.enter(link.file_name()?.to_str()?.parse().ok()?, None)
    }

    fn enter(&self, pid: u32, port: Option<u32>) -> Option<OwnCall> {
        let mut state = self.state();
        state.socket.as_ref()?;
        state.started += 1;
        let id = state.started;
        state.calls.push(Call { id, pid, port, begun: netlink::generation().ok(), ended: None });
        state.refilter();
        Some(OwnCall { ledger: self.clone(), id })
    }

    fn end(&self, id: u64) {
        let mut state = self.state();
        let Some(call) = state.calls.iter_mut().find(|call| call.id == id) else { return };
        let port = call.port.take();
        // Its notices may still be on their way.
        state.refilter();
        let ended = netlink::generation().ok();
        let Some(call) = state.calls.iter_mut().find(|call| call.id == id) else { return };
        (call.port, call.ended) = (port, ended.or(call.begun).or(Some(0)));
        state.retire();
    }

    /// The generation that is there now: to be kept with what is read next. `None` where nobody listens.
    pub fn mark(&self) -> Option<u32> {
        if self.is_listening() { netlink::generation().ok() } else { None }
    }

    /// Waits until everything has been heard of that happened so far; false where that cannot be known.
    pub async fn caught_up(&self) -> bool {
        let Some(now) = self.mark() else { return false };
        let hearing = async {
            loop {
                let mut more = std::pin::pin!(self.0.heard.notified());
                more.as_mut().enable();
                {
                    let state = self.state();
                    match state.heard.filter(|_| state.since.is_some()) {
                        None => return false,
                        Some(heard) if !is_after(now, heard) => return true,
                        Some(_) => {}
                    }
                }
                more.await;
            }
        };
        tokio::time::timeout(PATIENCE, hearing).await.unwrap_or(false)
    }

    /// What others did to a table since it was read at a generation; `later` are the built-in chains that were read
    /// again since.
    pub fn since(&self, key: Key, read: u32, later: &BTreeMap<Builtin, u32>) -> Since {
        let state = self.state();
        if state.since.is_none_or(|since| is_after(since, read)) {
            return Since::Unknown;
        }
        if state.tables.get(&key).is_some_and(|touched| is_after(*touched, read)) {
            return Since::Table;
        }
        let changed = |builtin: &Builtin| {
            let read = later.get(builtin).unwrap_or(&read);
            state.builtins.get(&(key, *builtin)).is_some_and(|touched| is_after(*touched, *read))
        };
        let builtins: BTreeSet<Builtin> = Builtin::ALL.into_iter().filter(changed).collect();
        if builtins.is_empty() { Since::Nothing } else { Since::Builtins(builtins) }
    }

    /// The listener has a socket, which misses nothing from now on.
    pub(super) fn joined(&self, socket: OwnedFd) {
        let mut state = self.state();
        state.socket = Some(socket);
        state.pending.clear();
        state.since = netlink::generation().ok();
        state.heard = state.since;
        state.retire();
        state.refilter();
        drop(state);
        self.0.heard.notify_waiters();
    }

    /// The listener has no socket any more.
    pub(super) fn left(&self) {
        let mut state = self.state();
        *state = State { started: state.started, ..State::default() };
        drop(state);
        self.0.heard.notify_waiters();
    }

    /// Takes a notice in; whether others did something that may concern us.
    pub(super) fn hear(&self, notice: Notice) -> bool {
        let generation = match notice {
            Notice::Elsewhere => return false,
            Notice::Touched(place) => {
                let mut state = self.state();
                // Most of them say the same.
                if !state.pending.contains(&place) {
                    state.pending.push(place);
                }
                return false;
            }
            Notice::Generation(generation) => generation,
        };
        let foreign = self.state().pass(&generation, self.name());
        if foreign {
            let Generation { number, pid, process, .. } = generation;
            tracing::debug!(generation = number, pid, process, "another process changed nf_tables");
        }
        self.0.heard.notify_waiters();
        foreign
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Everything that was told belongs to this generation. Whether it may concern us.
    fn pass(&mut self, made: &Generation, name: Option<&str>) -> bool {
        let places = std::mem::take(&mut self.pending);
        let Some(heard) = self.heard else {
            self.restart(made.number);
            return true;
        };
        if !is_after(made.number, heard) {
            // From before our first question.
            return false;
        }
        if made.number != successor(heard) {
            self.restart(made.number);
            return true;
        }
        self.heard = Some(made.number);
        let own = self.calls.iter().any(|call| call.wrote(made, name));
        // Who has the port of a writer of ours was not heard.
        let unheard = !own && self.calls.iter().any(|call| call.port == Some(made.port));
        self.retire();
        if own {
            return false;
        }
        if unheard || places.contains(&Place::Anywhere) {
            self.restart(made.number);
            return true;
        }
        for place in &places {
            match place {
                Place::Table(key) => drop(self.tables.insert(*key, made.number)),
                Place::Builtin(key, builtin) => drop(self.builtins.insert((*key, *builtin), made.number)),
                Place::Anywhere => {}
            }
        }
        !places.is_empty()
    }

    /// What was before is not known any more.
    fn restart(&mut self, generation: u32) {
        self.since = Some(generation);
        self.heard = Some(generation);
        self.retire();
    }

    /// Forgets the calls of which nothing more will be heard.
    fn retire(&mut self) {
        let heard = self.heard;
        self.calls.retain(|call| match (call.ended, heard) {
            (Some(ended), Some(heard)) => is_after(ended, heard),
            _ => true,
        });
    }

    /// The ports of calls that run.
    fn refilter(&self) {
        let Some(socket) = &self.socket else { return };
        let ports: Vec<u32> = self.calls.iter().filter(|c| c.ended.is_none()).filter_map(|c| c.port).collect();
        if let Err(error) = filter::attach(socket, &ports) {
            // More is heard than is needed.
            tracing::debug!(%error, "notices of nf_tables cannot be filtered");
        }
    }
}

impl Call {
    fn wrote(&self, made: &Generation, name: Option<&str>) -> bool {
        let named = match name {
            // Process ids are those of another namespace: a foreign one may be equal by chance.
            Some(name) => name == made.process,
            None => self.pid == made.pid,
        };
        named
            && self.begun.is_some_and(|begun| is_after(made.number, begun))
            && self.ended.is_none_or(|ended| !is_after(made.number, ended))
    }
}

/// Numbers begin anew at the end of their range.
fn is_after(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).cast_signed() > 0
}

/// No generation has the number 0.
fn successor(number: u32) -> u32 {
    number.wrapping_add(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::ruleset::Table;

    const NAT: Key = (Family::Ipv4, Table::Nat);
    const FILTER: Key = (Family::Ipv4, Table::Filter);

    fn heard_up_to(number: u32) -> State {
        State { since: Some(number), heard: Some(number), ..State::default() }
    }

    fn made(number: u32, pid: u32) -> Generation {
        Generation { number, port: pid, pid, process: "iptables".to_owned() }
    }

    fn call(pid: u32, begun: u32, ended: Option<u32>) -> Call {
        Call { id: 0, pid, port: Some(pid), begun: Some(begun), ended }
    }

    fn ledger(state: State) -> Ledger {
        Ledger(Arc::new(Shared { state: Mutex::new(state), ..Shared::default() }))
    }

    #[test]
    fn a_gapless_chain_of_our_own_proves_that_nothing_changed() {
        let mut state = heard_up_to(5);
        state.calls.push(call(42, 5, Some(7)));
        assert!(!state.pass(&made(6, 42), None) && !state.pass(&made(7, 42), None));
        assert!(state.calls.is_empty(), "nothing more comes of it");
        assert_eq!(ledger(state).since(NAT, 5, &BTreeMap::new()), Since::Nothing);
    }

    #[test]
    fn a_process_id_that_is_used_again_hides_nothing() {
        for (begun, ended) in [(4, Some(5)), (5, Some(5)), (6, None)] {
            let mut state = heard_up_to(5);
            state.calls.push(Call { port: None, ..call(42, begun, ended) });
            state.pending.push(Place::Table(NAT));
            assert!(state.pass(&made(6, 42), None), "{begun} {ended:?}");
            assert_eq!(ledger(state).since(NAT, 5, &BTreeMap::new()), Since::Table);
        }
    }

    #[test]
    fn a_foreign_generation_counts_only_where_it_may_concern_us() {
        let mut state = heard_up_to(5);
        assert!(!state.pass(&made(6, 9), None));
        state.pending.push(Place::Builtin(NAT, Builtin::Prerouting));
        assert!(state.pass(&made(7, 9), None));
        let ledger = ledger(state);
        let later = BTreeMap::new();
        assert_eq!(ledger.since(FILTER, 5, &later), Since::Nothing);
        assert_eq!(ledger.since(NAT, 7, &later), Since::Nothing, "read since");
        assert_eq!(ledger.since(NAT, 6, &later), Since::Builtins(BTreeSet::from([Builtin::Prerouting])));
        assert_eq!(ledger.since(NAT, 6, &BTreeMap::from([(Builtin::Prerouting, 7)])), Since::Nothing);
        assert_eq!(ledger.since(NAT, 4, &later), Since::Unknown, "from before anybody listened");
    }

    #[test]
    fn a_gap_and_a_port_that_was_dropped_mean_that_nobody_knows() {
        let mut gap = heard_up_to(5);
        assert!(gap.pass(&made(7, 9), None));
        let mut dropped = heard_up_to(5);
        dropped.calls.push(call(42, 5, None));
        assert!(dropped.pass(&Generation { port: 42, ..made(6, 9) }, None));
        let mut unread = heard_up_to(5);
        unread.pending.push(Place::Anywhere);
        assert!(unread.pass(&made(6, 9), None));
        for (state, now) in [(gap, 7), (dropped, 6), (unread, 6)] {
            let ledger = ledger(state);
            assert_eq!(ledger.since(NAT, 5, &BTreeMap::new()), Since::Unknown);
            assert_eq!(ledger.since(NAT, now, &BTreeMap::new()), Since::Nothing, "read since");
        }
    }

    #[test]
    fn where_process_ids_tell_nothing_the_name_counts() {
        let mut state = heard_up_to(5);
        state.calls.push(Call { port: None, ..call(42, 5, None) });
        state.pending.push(Place::Table(NAT));
        assert!(!state.pass(&made(6, 1000), Some("iptables")));
        state.pending.push(Place::Table(NAT));
        assert!(state.pass(&made(7, 42), Some("sn-1")));
    }

    #[test]
    fn numbers_begin_anew_without_a_gap() {
        let mut state = heard_up_to(u32::MAX);
        assert!(!state.pass(&made(1, 9), None));
        assert!(is_after(1, u32::MAX) && !is_after(u32::MAX, 1));
        assert_eq!(ledger(state).since(NAT, u32::MAX, &BTreeMap::new()), Since::Nothing);
    }
}
