from lavcap_core.schema import pipeline_schema


def references(value):
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        value = list(value.values())
    for child in value if isinstance(value, list) else []:
        yield from references(child)


def test_schema_knows_every_installed_component(toy):
    schema = pipeline_schema()
    assert schema["$defs"]["audio_encoder.loudness"]["properties"]["use"] == {"const": "loudness"}
    assert schema["$defs"]["slot.transport"]["anyOf"][1:] == [
        {"$ref": "#/$defs/transport.emd"},
        {"$ref": "#/$defs/transport.sinkhorn"},
    ]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"lavcap", "fuser", "decoder"}


def test_every_reference_leads_somewhere(toy):
    schema = pipeline_schema()
    found = list(references(schema))
    assert found
    for reference in found:
        assert reference.removeprefix("#/$defs/") in schema["$defs"], reference


def test_holder_refers_to_the_slot(toy):
    holder = pipeline_schema()["$defs"]["aligner.holder"]
    assert holder["properties"]["transport"] == {"$ref": "#/$defs/slot.transport"}
