select 'a'
'b' -- c
  'd', E'a' -- \
 '\''