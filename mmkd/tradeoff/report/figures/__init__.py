"""The figures of a report; each function draws one."""
