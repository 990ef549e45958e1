"""Who may reach whom: the tables of this site, what other sites said and signed, and the decisions over both."""
