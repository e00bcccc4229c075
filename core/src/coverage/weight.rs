//! The approximate size of sections held behind a gap, in bytes. It is computed only when a section is held.

use std::sync::Arc;

use serde_json::Value;

use crate::coverage::section::Section;
use crate::event::{Event, EventContext};
use crate::ids::{Room, Seq};

/// The size of an event in memory.
pub trait Weight {
    /// The approximate size in bytes.
    fn weight(&self) -> usize;
}

impl<T: Weight> Weight for Arc<T> {
    fn weight(&self) -> usize {
        (**self).weight()
    }
}

impl Weight for &str {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weight for Event {
    fn weight(&self) -> usize {
        let labels: usize = self.tags.iter().map(|tag| size_of_val(tag) + tag.len()).sum();
        let handling =
            self.handling.as_ref().map_or(0, |handling| size_of_val(&**handling) + of_rooms(&handling.rooms));
        let context = self.context.as_deref().map_or(0, of_context);
        let data: usize = self.data.iter().map(|(name, value)| entry(name, value)).sum();
        let extras = handling + context + data;
        size_of::<Self>() + self.key.len() + self.id.len() + labels + of_rooms(&self.rooms) + extras
    }
}

fn of_rooms(rooms: &[Room]) -> usize {
    rooms.iter().map(|room| size_of_val(room) + room.as_str().len()).sum()
}

fn of_context(context: &EventContext) -> usize {
    size_of_val(context) + context.sector.as_ref().map_or(0, |sector| sector.as_str().len())
}

fn entry(name: &str, value: &Value) -> usize {
    size_of::<String>() + name.len() + of_value(value)
}

fn of_value(value: &Value) -> usize {
    let inner = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(of_value).sum(),
        Value::Object(object) => object.iter().map(|(name, value)| entry(name, value)).sum(),
    };
    size_of::<Value>() + inner
}

/// The size of a held section, counted against the limit.
pub(super) fn weight<E: Weight>(section: &Section<E>) -> usize {
    let of_event = |(_, event): &(Seq, E)| size_of::<(Seq, E)>() + event.weight();
    size_of::<Section<E>>() + section.events.iter().map(of_event).sum::<usize>()
}
