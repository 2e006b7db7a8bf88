select a->>'b', a @> b, a+-1, a@-1, a<=-1, a*/*c*/b, a--b
, a ?| b, :=, =>, ::, :x