//! Builds the server's messages from encoded objects. Objects are copied unread, except for the header of an object
//! that gets extra fields for one session.

use super::Encoding;

/// Appends an array of encoded objects to `bytes`.
pub fn write_array<'a>(bytes: &mut Vec<u8>, objects: impl ExactSizeIterator<Item = &'a [u8]>, encoding: Encoding) {
    let mut array = ArrayWriter::new(bytes, objects.len(), encoding);
    for object in objects {
        array.object(object);
    }
    array.end();
}

/// Writes an array, object by object.
#[derive(Debug)]
pub struct ArrayWriter<'b> {
    bytes: &'b mut Vec<u8>,
    encoding: Encoding,
    /// Whether no object was written yet.
    first: bool,
}

impl<'b> ArrayWriter<'b> {
    /// Begins an array of exactly `len` objects.
    pub fn new(bytes: &'b mut Vec<u8>, len: usize, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => bytes.push(b'['),
            // The three headers of an array in the MessagePack specification: fixarray, array 16 and array 32.
            Encoding::MsgPack => match len as u32 {
                len @ 0..=15 => bytes.push(0x90 | len as u8),
                len @ 16..=0xffff => {
                    bytes.push(0xdc);
                    bytes.extend_from_slice(&(len as u16).to_be_bytes());
                }
                len => {
                    bytes.push(0xdd);
                    bytes.extend_from_slice(&len.to_be_bytes());
                }
            },
        }
        Self { bytes, encoding, first: true }
    }

    /// Appends an object unchanged.
    pub fn object(&mut self, object: &[u8]) {
        self.separate();
        self.bytes.extend_from_slice(object);
    }

    /// Appends an object that replaces `conflated` older ones. It must have fewer than 65,534 fields.
    pub fn conflated(&mut self, object: &[u8], conflated: u32) {
        let conflated = self.encoding.write(&conflated);
        self.extended(object, &[("conflated", conflated)]);
    }

    /// Appends an alert that matches the subscriptions with these names. It must have fewer than 65,534 fields.
    pub fn alert(&mut self, object: &[u8], subs: &[&str]) {
        let subs = self.encoding.write(&subs);
        self.extended(object, &[("subs", subs)]);
    }

    /// Appends an event that comes again. It must have fewer than 65,534 fields.
    pub fn again(&mut self, object: &[u8]) {
        let again = self.encoding.write(&true);
        self.extended(object, &[("again", again)]);
    }

    /// Appends an alert that comes again, and matches the subscriptions with these names. It must have fewer than 65,534
    /// fields.
    pub fn alert_again(&mut self, object: &[u8], subs: &[&str]) {
        let (subs, again) = (self.encoding.write(&subs), self.encoding.write(&true));
        self.extended(object, &[("subs", subs), ("again", again)]);
    }

    /// Ends the array.
    pub fn end(self) {
        if self.encoding == Encoding::Json {
            self.bytes.push(b']');
        }
    }

    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) && self.encoding == Encoding::Json {
            self.bytes.push(b',');
        }
    }

    /// Appends an object with these further fields, whose values are encoded.
    fn extended(&mut self, object: &[u8], further: &[(&str, Vec<u8>)]) {
        self.separate();
        let more = further.len() as u16;
        match (self.encoding, object) {
            (Encoding::Json, [fields @ .., b'}']) => {
                self.bytes.extend_from_slice(fields);
                for (name, value) in further {
                    self.bytes.push(b',');
                    self.put(name);
                    self.bytes.push(b':');
                    self.bytes.extend_from_slice(value);
                }
                self.bytes.push(b'}');
            }
            (Encoding::MsgPack, [header @ 0x80..=0x8f, fields @ ..]) => {
                self.put_map(u16::from(header & 0x0f) + more, fields, further);
            }
            (Encoding::MsgPack, [0xde, high, low, fields @ ..]) => {
                self.put_map(u16::from_be_bytes([*high, *low]).saturating_add(more), fields, further);
            }
            _ => self.bytes.extend_from_slice(object),
        }
    }

    /// Writes a map of `len` fields: those that are encoded together, and further ones.
    fn put_map(&mut self, len: u16, fields: &[u8], further: &[(&str, Vec<u8>)]) {
        // The headers of a map in the MessagePack specification: fixmap up to 15 fields, then map 16.
        match u8::try_from(len) {
            Ok(few @ 0..=15) => self.bytes.push(0x80 | few),
            _ => {
                self.bytes.push(0xde);
                self.bytes.extend_from_slice(&len.to_be_bytes());
            }
        }
        self.bytes.extend_from_slice(fields);
        for (name, value) in further {
            self.put(name);
            self.bytes.extend_from_slice(value);
        }
    }

    fn put(&mut self, name: &str) {
        self.bytes.extend_from_slice(&self.encoding.write(&name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    fn written(object: &Value, conflated: u32, encoding: Encoding) -> Value {
        let (mut bytes, object) = (Vec::new(), encoding.write(object));
        let mut array = ArrayWriter::new(&mut bytes, 2, encoding);
        array.object(&object);
        array.conflated(&object, conflated);
        array.end();
        match encoding {
            Encoding::Json => serde_json::from_slice(&bytes).unwrap(),
            Encoding::MsgPack => rmp_serde::from_slice(&bytes).unwrap(),
        }
    }

    #[test]
    fn names_of_subscriptions_are_added_to_an_alert() {
        for encoding in Encoding::ALL {
            let (mut bytes, object) = (Vec::new(), encoding.write(&json!({ "T": "alert" })));
            let mut array = ArrayWriter::new(&mut bytes, 1, encoding);
            array.alert(&object, &["a \"quoted\" one", "ü"]);
            array.end();
            let read: Value = match encoding {
                Encoding::Json => serde_json::from_slice(&bytes).unwrap(),
                Encoding::MsgPack => rmp_serde::from_slice(&bytes).unwrap(),
            };
            assert_eq!(read, json!([{ "T": "alert", "subs": ["a \"quoted\" one", "ü"] }]), "{encoding:?}");
        }
    }

    #[test]
    fn fields_of_an_alert_that_comes_again_are_added_to_objects_of_any_size() {
        for fields in [1, 13, 14, 15, 16, 40] {
            let object: Map<String, Value> = (0..fields).map(|n| (format!("f{n}"), json!(n))).collect();
            for encoding in Encoding::ALL {
                let (mut bytes, plain) = (Vec::new(), encoding.write(&object));
                let mut array = ArrayWriter::new(&mut bytes, 2, encoding);
                array.again(&plain);
                array.alert_again(&plain, &["a"]);
                array.end();
                let read: Value = match encoding {
                    Encoding::Json => serde_json::from_slice(&bytes).unwrap(),
                    Encoding::MsgPack => rmp_serde::from_slice(&bytes).unwrap(),
                };
                let mut event = object.clone();
                event.insert("again".into(), json!(true));
                let mut alert = event.clone();
                alert.insert("subs".into(), json!(["a"]));
                assert_eq!(read, json!([event, alert]), "{fields}, {encoding:?}");
            }
        }
    }

    #[test]
    fn conflated_field_is_added_to_objects_of_any_size() {
        for fields in [1, 14, 15, 16, 40] {
            let object: Map<String, Value> = (0..fields).map(|n| (format!("f{n}"), json!(n))).collect();
            let plain = Value::Object(object.clone());
            for encoding in Encoding::ALL {
                for conflated in [1, 300, u32::MAX] {
                    let mut more = object.clone();
                    more.insert("conflated".into(), json!(conflated));
                    assert_eq!(written(&plain, conflated, encoding), json!([object, more]), "{fields}, {encoding:?}");
                }
            }
        }
    }
}
