"""What the API takes and gives, for programs: the OpenAPI document, made from the types that the API answers with.

``answers`` are those types, ``schemas`` turns types into JSON Schema, ``document`` has a row for each path and method.
"""

from cluster.openapi.document import OPERATIONS, PATH, Operation, document, reference

__all__ = ["OPERATIONS", "PATH", "Operation", "document", "reference"]
