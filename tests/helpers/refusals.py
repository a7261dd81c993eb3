"""Words of which a helpful refusal has one."""

REFUSAL = r"must|is swept|none of|needs|only|is not|is called|missing|is used|ha(s|ve) no|are no|is one for"
REFUSAL += r"|--list|did you mean|one of <|is a section|--help|say for instance|in the range|Unknown|always included"
