use std::fmt;

use log::Log;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::model::printable_lines;

/// Feeds tracing's events to the systemd journal by way of a [`Log`] (`JournalLog`, which writes key-values as journal fields: upper
/// case, every character but letters, digits and underscore replaced). Fields of an event and of the spans around it become journal
/// fields, and stand behind the message too, since `journalctl` shows nothing else by default.
pub(super) struct JournalLayer<L> {
    log: L,
}

impl<L: Log> JournalLayer<L> {
    pub(super) fn new(log: L) -> Self {
        JournalLayer { log }
    }
}

/// Message and fields of one event or span.
#[derive(Debug, Default, Clone)]
struct Fields {
    message: String,
    pairs: Vec<(String, String)>,
}

impl Fields {
    fn put(&mut self, name: &str, value: String) {
        if name == "message" {
            self.message = value;
            return;
        }
        // Names that the logger itself writes would stand twice in one entry.
        let name = if is_reserved(name) { format!("field_{name}") } else { name.to_owned() };
        match self.pairs.iter_mut().find(|(n, _)| *n == name) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((name, value)),
        }
    }
}

fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    matches!(name.as_str(), "MESSAGE" | "PRIORITY" | "TARGET")
        || name.starts_with("CODE_")
        || name.starts_with("SYSLOG_")
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        self.put(field.name(), text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }
}

impl<S, L> Layer<S> for JournalLayer<L>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    L: Log + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &SpanRecord<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten().collect::<Vec<_>>().into_iter().rev() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.pairs {
                    fields.put(name, value.clone());
                }
            }
        }
        event.record(&mut fields);

        let mut message = std::mem::take(&mut fields.message);
        for (name, value) in &fields.pairs {
            message += &format!(" {name}={value}");
        }
        // Of a message with control characters journalctl shows no more than its size.
        let message = printable_lines(&message);
        let pairs: Vec<(&str, &str)> = fields.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let metadata = event.metadata();
        self.log.log(
            &log::Record::builder()
                .level(level(*metadata.level()))
                .target(metadata.target())
                .module_path(metadata.module_path())
                .file(metadata.file())
                .line(metadata.line())
                .key_values(&pairs)
                .args(format_args!("{message}"))
                .build(),
        );
    }
}

fn level(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        Level::TRACE => log::Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    type Entry = (log::Level, String, BTreeMap<String, String>);

    /// Keeps what a journal would get.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Entry>>>);

    impl Log for Kept {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            struct Pairs(BTreeMap<String, String>);
            impl<'kvs> log::kv::VisitSource<'kvs> for Pairs {
                fn visit_pair(
                    &mut self,
                    key: log::kv::Key<'kvs>,
                    value: log::kv::Value<'kvs>,
                ) -> Result<(), log::kv::Error> {
                    assert_eq!(self.0.insert(key.to_string(), value.to_string()), None, "{key} twice");
                    Ok(())
                }
            }
            let mut pairs = Pairs(BTreeMap::new());
            record.key_values().visit(&mut pairs).unwrap();
            self.0.lock().unwrap().push((record.level(), record.args().to_string(), pairs.0));
        }

        fn flush(&self) {}
    }

    fn entries(body: impl FnOnce()) -> Vec<Entry> {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(JournalLayer::new(kept.clone()));
        tracing::subscriber::with_default(subscriber, body);
        let entries = kept.0.lock().unwrap();
        entries.clone()
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn fields_of_events_become_fields_of_the_record_and_stand_behind_the_message() {
        let got = entries(|| {
            tracing::warn!(mapping = %"shop/web", attempts = 3, ok = false, "apply failed");
        });
        let fields = map(&[("mapping", "shop/web"), ("attempts", "3"), ("ok", "false")]);
        assert_eq!(got, [(log::Level::Warn, "apply failed mapping=shop/web attempts=3 ok=false".into(), fields)]);
    }

    #[test]
    fn fields_of_spans_are_kept_and_the_innermost_value_wins() {
        let got = entries(|| {
            let outer = tracing::info_span!("pass", number = 7, kind = "full", late = tracing::field::Empty);
            outer.record("late", 1);
            let _outer = outer.enter();
            let _inner = tracing::info_span!("apply", kind = "border").entered();
            tracing::info!(tool = "ipset", "called");
        });
        assert_eq!(got[0].2, map(&[("number", "7"), ("kind", "border"), ("late", "1"), ("tool", "ipset")]));
    }

    #[test]
    fn names_of_the_journal_itself_are_not_overwritten_and_errors_come_with_their_causes() {
        let io = std::io::Error::other(std::fmt::Error);
        let got = entries(|| {
            tracing::error!(priority = 1, code_line = 2, error = &io as &(dyn std::error::Error + 'static), "x");
        });
        assert_eq!(got[0].0, log::Level::Error);
        assert_eq!(got[0].2["field_priority"], "1");
        assert_eq!(got[0].2["field_code_line"], "2");
        assert!(got[0].2["error"].contains("error occurred when formatting"), "{:?}", got[0].2);
    }
}
