//! The OpenAPI document of the control socket, made from the table of verbs and their types.
//!
//! `docs/openapi.json` is this document; a test compares them (`UPDATE_DOCS=1` writes it).

use crate::{
    control::{self, API_VERSION, VerbInfo},
    failure::ErrorDocument,
    verbs::{export, past},
};
use serde_json::json;
use utoipa::{
    ToSchema,
    openapi::{
        ContentBuilder, HttpMethod, Info, License, OpenApi, OpenApiBuilder, PathItem, Paths, Ref,
        RefOr, Required, ResponseBuilder, Schema,
        path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{ComponentsBuilder, ObjectBuilder, Type},
    },
};

/// Sees every verb with the types of its request and answer.
pub(crate) trait Visitor {
    fn verb<R: ToSchema, A: ToSchema>(&mut self, verb: &VerbInfo);
}

#[derive(Default)]
struct Document {
    paths: Paths,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Document {
    fn add<T: ToSchema>(&mut self) -> Ref {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        Ref::from_schema_name(T::name())
    }

    fn insert(&mut self, path: String, methods: Vec<(HttpMethod, Operation)>) {
        let mut methods = methods.into_iter();
        let Some((method, operation)) = methods.next() else { return };
        let mut item = PathItem::new(method, operation);
        for (method, operation) in methods {
            item.merge_operations(PathItem::new(method, operation));
        }
        self.paths.paths.insert(path, item);
    }
}

impl Visitor for Document {
    fn verb<R: ToSchema, A: ToSchema>(&mut self, verb: &VerbInfo) {
        let (request, answer) = (self.add::<R>(), self.add::<A>());
        let id = verb.path.replace('/', "_");
        let ask = |id: String| operation(id, verb, answer.clone());
        let content = ContentBuilder::new().schema(Some(request)).build();
        let body = RequestBodyBuilder::new()
            .content("application/json", content)
            .required(Some(if verb.asks { Required::False } else { Required::True }))
            .build();
        let post = ask(id.clone()).request_body(Some(body)).build();
        let mut methods = vec![(HttpMethod::Post, post)];
        if verb.asks {
            methods.push((HttpMethod::Get, ask(format!("{id}_get")).build()));
        }
        self.insert(format!("/{API_VERSION}/{}", verb.path), methods);
    }
}

fn operation(id: String, verb: &VerbInfo, answer: Ref) -> OperationBuilder {
    let content = ContentBuilder::new().schema(Some(answer)).build();
    let done = format!("Done. The document also carries `\"schema\": \"{}\"`.", verb.schema());
    let done = ResponseBuilder::new().description(done).content("application/json", content);
    OperationBuilder::new()
        .operation_id(Some(id))
        .summary(Some(verb.summary))
        .response("200", done.build())
        .response("default", failure())
}

fn failure() -> utoipa::openapi::Response {
    let schema = Ref::from_schema_name(ErrorDocument::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description("It could not be done; the code says why.")
        .content("application/json", content)
        .build()
}

/// The whole document.
pub fn document() -> OpenApi {
    let mut document = Document::default();
    control::visit(&mut document);
    document.add::<ErrorDocument>();
    document.add::<past::Read>();
    document.insert(format!("/{API_VERSION}/read"), vec![(HttpMethod::Get, read())]);
    document.add::<export::Read>();
    document.insert(format!("/{API_VERSION}/export/read"), vec![(HttpMethod::Get, export_read())]);
    let info = Info::builder()
        .title("Strandline")
        .description(Some(
            "Control of a store over its unix socket `control.sock`: HTTP/1.1, JSON. \
             The caller is known by the socket's peer credentials.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(
            License::builder()
                .name("MIT OR Apache-2.0")
                .identifier(Some("MIT OR Apache-2.0"))
                .build(),
        ))
        .build();
    let components = ComponentsBuilder::new().schemas_from_iter(document.schemas).build();
    OpenApiBuilder::new().info(info).paths(document.paths).components(Some(components)).build()
}

fn parameter(name: &str, required: Required, kind: Type, text: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(required)
        .description(Some(text))
        .schema(Some(ObjectBuilder::new().schema_type(kind)))
}

fn read() -> Operation {
    let bytes =
        ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String).build()));
    let done = ResponseBuilder::new()
        .description(
            "The bytes, chunked. With `Accept: application/x-strandline-chunks`, framed: a byte \
             (0 data, 1 zeroes, 2 failure, 3 end), eight bytes of length, little-endian, then for 0 \
             the bytes and for 2 the failure as JSON.",
        )
        .content("application/octet-stream", bytes.build());
    OperationBuilder::new()
        .operation_id(Some("read"))
        .summary(Some("Reads the bytes of an instant."))
        .parameter(parameter("ref", Required::True, Type::String, "VOL[~BRANCH][@INSTANT]"))
        .parameter(parameter("offset", Required::False, Type::Integer, "first byte; 0"))
        .parameter(parameter("length", Required::False, Type::Integer, "bytes; up to the end"))
        .parameter(parameter("exact", Required::False, Type::Boolean, "refuses a thinned instant"))
        .response("200", done.build())
        .response("default", failure())
        .build()
}

fn export_read() -> Operation {
    let bytes =
        ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String).build()));
    let bytes = bytes.build();
    let done = ResponseBuilder::new()
        .description(
            "The bytes. `ETag` names them; where the length is known there are `Content-Length` and \
             `Accept-Ranges`. With `Accept: application/x-strandline-chunks`, framed as `/read`.",
        )
        .content("application/octet-stream", bytes.clone());
    let part = ResponseBuilder::new()
        .description("The bytes of the range that the header `Range` asked for.")
        .content("application/octet-stream", bytes);
    let text = |text: &str| ResponseBuilder::new().description(text).build();
    let wanted = |name, kind, text| parameter(name, Required::True, kind, text);
    let may = |name, kind, text| parameter(name, Required::False, kind, text);
    OperationBuilder::new()
        .operation_id(Some("export_read"))
        .summary(Some("Reads a file of an instant as an image."))
        .parameter(wanted("ref", Type::String, "VOL[~BRANCH][@INSTANT]"))
        .parameter(wanted("format", Type::String, "raw, qcow2, vhd, vhdx, vmdk, vdi"))
        .parameter(may("subformat", Type::String, "kind within the format"))
        .parameter(may("base", Type::String, "instant that the image differs from"))
        .parameter(may("base_name", Type::String, "file name of the base's image"))
        .parameter(may("name", Type::String, "file name of the image"))
        .parameter(may("exact", Type::Boolean, "refuses thinned instants"))
        .parameter(may("file", Type::Integer, "which of the files; 0"))
        .parameter(may("offset", Type::Integer, "first byte; 0"))
        .parameter(may("length", Type::Integer, "bytes; up to the end"))
        .parameter(may("head_last", Type::Boolean, "packed qcow2: its head comes last"))
        .response("200", done.build())
        .response("206", part.build())
        .response("304", text("What the caller has, as `If-None-Match` names it, is the same."))
        .response("416", text("The file has no byte of that range."))
        .response("default", failure())
        .build()
}

/// The document as text, as it stands in `docs/openapi.json`.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&json!(document())).expect("plain data");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

    #[test]
    fn the_checked_in_document_is_current() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            #[expect(clippy::disallowed_methods, reason = "a test writes a page of the manual")]
            std::fs::write(PATH, text()).expect("docs can be written");
        }
        let found = std::fs::read_to_string(PATH).expect("docs/openapi.json is checked in");
        assert!(
            found == text(),
            "docs/openapi.json is stale: UPDATE_DOCS=1 cargo test -p strandline-api"
        );
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        let document = json!(document());
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a quoted name");
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        assert_eq!(
            document["paths"].as_object().map(serde_json::Map::len),
            Some(control::VERBS.len() + 2)
        );
    }
}
